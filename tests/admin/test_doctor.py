"""`vald-node check`: which configurations the node could start with."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from dicom_node import config, wiring
from dicom_node.admin import doctor
from dicom_node.admin.doctor import Finding
from pipeline import digest, testing
from storage import migrate
from tests.admin import commands
from tests.storage.bucket import S3Server, running
from tests.storage.samples import produced


def checked(path: Path) -> tuple[int, str]:
    """Exit status and output, on one line as far as rich broke it."""
    done = commands.vald("check", "--config", path)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, " ".join(done.stdout.split())


def findings(path: Path) -> dict[str, Finding]:
    return {found.what: found for found in doctor.examine(config.load(path, {}))}


def good(folder: Path, model: Path) -> Path:
    (folder / "var").mkdir()
    path = commands.config(folder, model)
    migrate.up(config.load(path, {}).storage.database)
    return path


def test_a_good_configuration_passes_though_its_pacs_is_away(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = good(tmp_path, tiny_model)
    status, said = checked(path)
    assert status == 0
    assert "✓ configuration 1 rule(s)" in said
    assert f"✓ model tiny 0, digest {digest.model_digest(tiny_model)[:12]}" in said
    assert "✓ database sqlite answers" in said
    assert "does not answer: cannot connect" in said


def test_a_model_that_was_never_calibrated_is_told_but_not_fatal(
    tmp_path: Path, tiny_model: Path
) -> None:
    told = findings(good(tmp_path, tiny_model))["calibration"]
    assert (told.good, told.fatal) == (False, False)
    assert "was never calibrated" in told.said
    assert "run vald-node calibrate" in told.said


def test_a_destination_that_is_away_is_told_but_not_fatal(tmp_path: Path, tiny_model: Path) -> None:
    away = findings(good(tmp_path, tiny_model))["destination"]
    assert (away.good, away.fatal) == (False, False)
    assert away.said.startswith("pacs (PACS at 127.0.0.1:")


def test_a_check_changes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    path = good(tmp_path, tiny_model)
    before = contents(tmp_path)
    checked(path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("with_var", [True, False])
def test_a_check_before_the_first_start_changes_nothing_either(
    tmp_path: Path, tiny_model: Path, with_var: bool
) -> None:
    path = commands.config(tmp_path, tiny_model)
    if with_var:
        (tmp_path / "var").mkdir()
    before = contents(tmp_path)
    checked(path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("with_var", [True, False])
def test_a_node_that_could_start_for_the_first_time_passes(
    tmp_path: Path, tiny_model: Path, with_var: bool
) -> None:
    path = commands.config(tmp_path, tiny_model)
    if with_var:
        (tmp_path / "var").mkdir()
    status, _ = checked(path)
    assert status == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every path below the folder, with what files hold."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_a_file_that_is_not_there_fails(tmp_path: Path) -> None:
    status, said = checked(tmp_path / "absent.yaml")
    assert status == 1
    assert said.startswith("✗ configuration")


def test_every_fault_of_a_configuration_is_told(tmp_path: Path, tiny_model: Path) -> None:
    path = commands.config(tmp_path, tiny_model)
    path.write_text(path.read_text().replace("device: cpu", "devise: cpu") + "extra: 1\n")
    status, said = checked(path)
    assert status == 1
    assert "did you mean device?" in said
    assert "extra" in said


def test_a_model_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    path = good(tmp_path, tmp_path / "nowhere")
    assert checked(path)[0] == 1
    assert "is no diffusers folder" in findings(path)["model"].said


def test_a_model_whose_files_are_not_those_that_were_digested_fails(tmp_path: Path) -> None:
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    path = good(tmp_path, model)
    (model / "unet" / "config.json").write_text("{}")
    assert checked(path)[0] == 1
    assert "unet/config.json" in findings(path)["model"].said


def test_weights_that_are_not_of_their_network_fail(tmp_path: Path) -> None:
    """As only the network shows, once it is built."""
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    (model / "digests.json").unlink()
    weights = next((model / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].repeat(2, 1, 1, 1)
    save_file(tensors, weights, metadata={"format": "pt"})
    path = good(tmp_path, model)
    assert checked(path)[0] == 1
    assert "conv_in.weight" in findings(path)["model"].said


def test_a_device_that_is_not_there_fails(tmp_path: Path, tiny_model: Path) -> None:
    path = good(tmp_path, tiny_model)
    path.write_text(path.read_text().replace("device: cpu", "device: cuda:99"))
    assert checked(path)[0] == 1
    assert "device 'cuda:99': this machine has cpu" in findings(path)["model"].said


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("vald.json", "{"),
        ("vald.json", json.dumps({"calibrated": {"level": 1}})),
        ("vald.json", "[]"),
        ("digests.json", "{"),
    ],
)
def test_a_model_whose_own_files_cannot_be_read_fails_in_words(
    tmp_path: Path, file: str, text: str
) -> None:
    model = tmp_path / "model"
    testing.write_tiny_model(model)
    path = good(tmp_path, model)
    (model / file).write_text(text)
    assert checked(path)[0] == 1
    assert file in findings(path)["model"].said


def test_a_database_that_cannot_be_opened_fails(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = commands.config(tmp_path, tiny_model, database="sqlite:///folder")
    assert checked(path)[0] == 1
    assert not findings(path)["database"].good


def test_a_name_in_brackets_is_shown_as_it_is(tmp_path: Path, tiny_model: Path) -> None:
    path = commands.config(tmp_path, tiny_model)
    path.write_text(path.read_text().replace("pacs", "'b[/x]'"))
    said = commands.vald("check", "--config", path)
    assert "b[/x]" in said.output
    assert said.exit_code in (0, 1)
    assert said.exception is None or isinstance(said.exception, SystemExit)


def test_a_host_without_an_address_is_told_in_words(tmp_path: Path, tiny_model: Path) -> None:
    path = commands.config(tmp_path, tiny_model)
    path.write_text(path.read_text().replace("127.0.0.1", "no-such-host.invalid"))
    said = commands.vald("check", "--config", path)
    assert "no-such-host.invalid" in said.output
    assert said.exit_code == 0  # a PACS that is away is no reason not to start


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path, tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = commands.config(tmp_path, tiny_model)
        keys = yaml.safe_load(path.read_text())
        keys["node"] |= {"host": "127.0.0.1", "port": port}
        path.write_text(yaml.safe_dump(keys))
        # In a process of its own: serve sets the log up for the whole process.
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert f"vald-node: node.port: cannot listen at 127.0.0.1:{port}" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """One that speaks S3, which commands find."""
    with running() as started:
        started.make_known(monkeypatch)
        yield started


def test_objects_in_a_bucket_are_looked_for(
    tmp_path: Path, tiny_model: Path, server: S3Server
) -> None:
    (tmp_path / "var").mkdir()
    path = commands.config(tmp_path, tiny_model, objects="s3://films/vald")
    assert findings(path)["objects"].said == "s3://films/vald answers"
    server.drop_bucket()
    assert checked(path)[0] == 1
    said = "storage.objects: there is no bucket films: make it, or correct its name"
    assert findings(path)["objects"].said == said
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(path)]
    started = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (started.returncode, started.stderr.splitlines()[-1]) == (1, f"vald-node: {said}")
    server.kill()
    assert checked(path)[0] == 1
    assert "EndpointConnectionError" in findings(path)["objects"].said


def test_results_that_wait_for_a_destination_that_is_not_there_any_more_are_told(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = good(tmp_path, tiny_model)
    store = wiring.open_store(config.load(path, {}))
    produced(store)  # for pacs and archive
    store.close()
    status, said = checked(path)
    assert status == 0
    assert "2 results wait for archive, which is not configured: move or drop them" in said


def test_a_port_of_the_system_s_choice_is_no_port_to_be_told(tmp_path: Path) -> None:
    path = commands.config(tmp_path, "embedded")
    settings = yaml.safe_load(path.read_text())
    settings["node"]["port"] = 0
    path.write_text(yaml.safe_dump(settings))
    found = findings(path)["port"]
    assert (found.good, found.fatal) == (False, True)
    assert "say which one" in found.said
