"""A model that cannot be used: refused at the node's start, or told while films are kept."""

import http
import http.client
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from dicom_node.work import loading
from dicom_node.work.loading import Loads
from pipeline import testing
from pipeline.errors import ModelError
from storage.memory import MemoryJobStore
from tests.intake import sender
from tests.intake.films import encoded
from tests.peers import films, nodes, tools
from tests.peers.nodes import Node
from tests.storage.samples import NOON

pytestmark = pytest.mark.timeout(900)

_LONG_S = 300.0
"""A worker loads its model; a busy machine takes its time."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that can be used."""
    made = tmp_path_factory.mktemp("sound")
    testing.write_tiny_model(made)
    return made


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def node_with(folder: Path, model: Path, **more: Any) -> Node:
    """A node whose destination is away."""
    return nodes.write_config(folder, tools.free_port(), model=model, **more)


def say(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def with_a_text_encoder_of_another_width(model: Path) -> None:
    shutil.rmtree(model)
    testing.write_stable_diffusion_like(model, text_width=64)


def with_a_pickle(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")


def with_another_file_than_listed(model: Path) -> None:
    say(model / "unet" / "config.json", note="changed")


def with_another_prediction(model: Path) -> None:
    (model / "digests.json").unlink()
    say(model / "scheduler" / "scheduler_config.json", prediction_type="flow")


def with_weights_of_a_larger_network(model: Path) -> None:
    """Its configurations say nothing of it: only the network, once built, does not take them."""
    (model / "digests.json").unlink()
    path = next((model / "unet").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].repeat(2, 1, 1, 1)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        (
            with_a_text_encoder_of_another_width,
            "the text encoder's states are 64 wide, the U-Net attends to 768",
        ),
        (with_a_pickle, "holds unet/diffusion_pytorch_model.bin: pickled weights and programs"),
        (with_another_file_than_listed, "that digests.json lists: unet/config.json"),
        (with_another_prediction, "scheduler: unknown prediction_type 'flow'"),
    ],
)
def test_a_node_with_such_a_folder_does_not_listen_and_says_why_in_one_line(
    tmp_path: Path, model: Path, breaks: Callable[[Path], None], why: str
) -> None:
    breaks(model)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # to listen here would fail, and say so
        node = node_with(tmp_path / "node", model)
        keys = yaml.safe_load(node.config.read_text())
        keys["node"]["port"] = taken.getsockname()[1]
        node.config.write_text(yaml.safe_dump(keys))
        done = node.run("serve")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vald-node: {model}")
    assert why in line
    assert not (node.folder / "var").exists()  # nor was anything else begun


def test_a_folder_that_only_a_built_network_shows_to_be_unfit_ends_the_node(
    tmp_path: Path, model: Path
) -> None:
    with_weights_of_a_larger_network(model)
    node = node_with(tmp_path / "node", model)
    with nodes.running(node):
        assert node.process is not None
        assert node.process.wait(_LONG_S) == 1
    last = node.log().splitlines()[-1]
    assert last.startswith(f"vald-node: {model}: cannot be loaded: ")
    assert "conv_in.weight" in last
    assert "Traceback" not in node.log()


def test_a_folder_that_is_broken_under_a_running_node_loses_no_film_until_it_is_mended(
    tmp_path: Path, model: Path
) -> None:
    status_port = tools.free_port()
    page = {"status": {"host": "127.0.0.1", "port": status_port}}
    node = node_with(tmp_path / "node", model, edge=page)
    with nodes.running(node):
        tools.wait_until(lambda: _events(node, "worker ready") == 1, _LONG_S, "the worker")
        whole = (model / "vald.json").read_bytes()
        say(model / "vald.json", steps=3)
        _kill_all_children(node)
        tools.wait_until(lambda: _events(node, "model not loaded") > 0, _LONG_S, "a refusal")
        tools.wait_until(lambda: bool(_trouble(status_port)), _LONG_S, "the status page")
        assert "not the files that digests.json lists: vald.json" in str(_trouble(status_port))
        uid = _sent(node)
        tools.wait_until(lambda: bool(node.of(uid)), _LONG_S, "the film")
        assert node.of(uid)["state"] == "RECEIVED"
        (model / "vald.json").write_bytes(whole)
        node.wait_for(uid, "PRODUCED", within_s=_LONG_S)
        assert _trouble(status_port) is None
        assert "Traceback" not in node.log()


def test_what_a_worker_refuses_after_one_has_loaded_the_model_ends_no_node() -> None:
    loads = Loads()
    loads.demand_none_refused()
    loads.loaded()
    loads.refuse("another folder lies there now")
    loads.demand_none_refused()


def test_what_a_worker_refuses_before_any_has_loaded_the_model_ends_the_node() -> None:
    loads = Loads()
    loads.refuse("conv_in.weight is of another size")
    tools.wait_until(lambda: _refused(loads), _LONG_S, "what the worker said")


def test_trouble_is_said_of_the_node_that_has_it_until_it_has_loaded_the_model() -> None:
    store = MemoryJobStore()
    loading.note(store, 104, "a pickle", NOON)
    assert loading.trouble(store, 104) == "a pickle"
    assert loading.trouble(store, 11112) == ""
    loading.note(store, 104, "", NOON)
    assert loading.trouble(store, 104) == ""


def _refused(loads: Loads) -> bool:
    try:
        loads.demand_none_refused()
    except ModelError as fault:
        return str(fault) == "conv_in.weight is of another size"
    return False


def _sent(node: Node) -> str:
    """A film was accepted; its SOP Instance UID."""
    film = films.dx()
    with sender.association(node.port, sop_class_uid=film.SOPClassUID) as assoc:
        told = sender.store(
            assoc,
            encoded(film),
            sop_instance_uid=film.SOPInstanceUID,
            sop_class_uid=film.SOPClassUID,
        )
    assert told is not None
    assert told.status == 0
    return str(film.SOPInstanceUID)


def _events(node: Node, name: str) -> int:
    return sum(f'"event": "{name}"' in line for line in node.log().splitlines())


def _trouble(port: int) -> str | None:
    """What the status page says of the model; "" while it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/status.json")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:  # the database did not answer in time
            return ""
        said = json.loads(answer.read())["model_trouble"]
    except OSError:
        return ""
    finally:
        connection.close()
    return None if said is None else str(said)


def _kill_all_children(node: Node) -> None:
    assert node.process is not None
    main = node.process.pid
    for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
