"""What can be told against a model folder without building its networks: by any process, at once.

What only the built networks show (weights of other shapes than their config.json says, values that
are no numbers) is found by `weights.load`, which asks all of this too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline import digest, fit, settings, shortage
from pipeline.errors import ModelError
from pipeline.fit import Shapes
from pipeline.settings import Settings

_NETWORKS = ("vae", "unet", "text_encoder")
_WEIGHTS = "*.safetensors"
_WIDTHS = (
    "block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels",
    "vocab_size", "hidden_size", "intermediate_size",
)  # fmt: skip
"""What a configuration says that is a side of some tensor; 0 where a stage is left out."""
_LAYERS_OF = {
    "encoder_block_out_channels": "encoder_layers_per_block",
    "decoder_block_out_channels": "decoder_layers_per_block",
}


@shortage.told("the model folder was not checked")
def demand_usable(folder: Path) -> str:
    """Nothing can be told against the folder before its networks are built; its digest.

    Raises:
        ModelError: its files are not those that it lists, or run, or are damaged; its parts do not
            fit each other, or what it says of itself; or it is of a form that is not known.
        ShortageError: memory or file handles are wanting now.
    """
    found = digest.model_digest(folder)
    said = settings.read(folder)
    _demand_kinds(folder)
    _demand_shapes(folder, said)
    _demand_files(folder)
    demand_widths(folder)
    _demand_reference(folder, said)
    return found


def _demand_kinds(folder: Path) -> None:
    fit.demand_autoencoder(folder, _configuration(folder, "vae"))
    schedule = digest.read_object(folder / "scheduler" / "scheduler_config.json")
    fit.demand_schedule(folder, schedule)


def _demand_shapes(folder: Path, said: Settings) -> None:
    shapes = _shapes(*(_configuration(folder, name) for name in _NETWORKS))
    if shapes is not None:
        fit.demand_parts(folder, shapes)
        fit.demand_settings(folder, shapes, said)


def _shapes(vae: dict[str, Any], unet: dict[str, Any], text: dict[str, Any]) -> Shapes | None:
    """As the configurations say; None where one leaves something to its library."""
    stages = vae.get("encoder_block_out_channels", vae.get("block_out_channels"))
    counts = {
        "latents": vae.get("latent_channels"),
        "takes": unet.get("in_channels"),
        "gives": unet.get("out_channels"),
        "attends": unet.get("cross_attention_dim"),
        "width": text.get("hidden_size"),
        "positions": text.get("max_position_embeddings"),
    }
    told = {name: count for name, count in counts.items() if type(count) is int}
    if not isinstance(stages, list) or len(told) < len(counts):
        return None
    return Shapes(scale=2 ** (len(stages) - 1), **told)


def _demand_files(folder: Path) -> None:
    """Every network has weights, and every file of weights is as long as its header says."""
    for name in _NETWORKS:
        if not any((folder / name).glob(_WEIGHTS)):
            raise ModelError(f"{folder / name}: holds no weights in safetensors")
    for path in sorted(folder.rglob(_WEIGHTS)):
        _shape(path)


def demand_widths(folder: Path) -> None:
    """Each network that has weights has tensors as wide as its configuration says: one that these
    could not fill would be built first, of more memory than any machine has.

    Raises:
        ModelError: one has not, or a file is damaged.
    """
    for name in _NETWORKS:
        said, sides = _configuration(folder, name), _sides(folder / name)
        for key in _WIDTHS:
            widths = _widths(said, key)
            wrong = [width for width in widths if type(width) is int and width not in {0, *sides}]
            if sides and wrong:
                raise ModelError(
                    f"{folder / name}: {key} is {wrong[0]}, and no tensor of its weights is so "
                    "wide: install the model again"
                )


def _widths(said: dict[str, Any], key: str) -> list[Any]:
    """What is said under this key, but of a first stage that has no layers: it is not built, and
    of any width (AutoencoderDC).
    """
    value, layers = said.get(key), said.get(_LAYERS_OF.get(key, ""))
    widths = value if isinstance(value, list) else [value]
    return widths[1:] if isinstance(layers, list) and layers[:1] == [0] else widths


def _sides(folder: Path) -> set[int]:
    """Of all tensors of a network, by the headers of its files."""
    found: set[int] = set()
    for path in sorted(folder.glob(_WEIGHTS)):
        with _opened(path) as file:
            found.update(*(file.get_slice(name).get_shape() for name in file.keys()))  # noqa: SIM118
    return found


def _demand_reference(folder: Path, said: Settings) -> None:
    path = folder / digest.CALIBRATION
    if path.is_file():
        fit.demand_reference(folder, said.grid, _shape(path, "mean"))


def _shape(path: Path, name: str = "") -> tuple[int, ...]:
    """A tensor's shape, by the header of its file; none where no tensor is named."""
    with _opened(path) as file:
        return tuple(file.get_slice(name).get_shape()) if name else ()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError) as fault:
        raise ModelError(f"{path}: damaged: {fault}") from fault


def _configuration(folder: Path, name: str) -> dict[str, Any]:
    return digest.read_object(folder / name / "config.json")
