"""The public DICOM objects beside the checkout decode, upright and in the right polarity."""

import numpy as np
import pytest

from dicom_node import radiograph
from dicom_node.decoder import Decoder
from tests.conftest import SHARED_DATA

_FOLDER = SHARED_DATA / "dicom"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not _FOLDER.is_dir(), reason="no DICOM files beside the checkout"),
]

_SHAPES = {
    "rg1-chest-philips-mono1-15bit-jpeg2000.dcm": (1955, 1841),
    "cr-mono1-10-chest-fuji-no-preamble.dcm": (440, 440),
    "nih-dx-chest-no-finding.dcm": (1024, 1024),
    "nih-dx-chest-effusion.dcm": (1024, 1024),
    "nih-dx-bodypart-ribcage.dcm": (1024, 1024),
    "nih-modality-ct-mislabelled.dcm": (1024, 1024),
    "siim-cr-chest-mono2-jpeg-baseline.dcm": (1024, 1024),
    "rg3-ankle-fuji-mono1-10bit-jpeg2000.dcm": (1760, 1760),
    "rg3-ankle-fuji-mono1-10bit-rle.dcm": (1760, 1760),
    "rg2-hip-fuji-mono2-jpeg-extended.dcm": (2140, 1760),
}
_CHESTS = [name for name in _SHAPES if "chest" in name]


def _film(name: str) -> radiograph.Film:
    return radiograph.read(_FOLDER / name)


@pytest.mark.parametrize("name", _SHAPES)
def test_every_film_decodes_to_its_size_over_a_good_range(name: str) -> None:
    pixels = _film(name).radiograph.pixels
    assert pixels.shape == _SHAPES[name]
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert np.percentile(pixels, 99) - np.percentile(pixels, 1) > 0.5


@pytest.mark.parametrize("name", _SHAPES)
def test_a_header_alone_agrees_with_the_film(name: str) -> None:
    assert radiograph.read_header(_FOLDER / name) == _film(name).header


@pytest.mark.parametrize("name", _CHESTS)
def test_lungs_are_darker_than_the_mediastinum(name: str) -> None:
    pixels = _film(name).radiograph.pixels
    rows, columns = pixels.shape
    band = pixels[int(0.35 * rows) : int(0.55 * rows)]
    middle = np.median(band[:, int(0.46 * columns) : int(0.54 * columns)])
    lungs = [band[:, int(a * columns) : int(b * columns)] for a, b in ((0.2, 0.35), (0.65, 0.8))]
    assert min(np.median(lung) for lung in lungs) < middle - 0.1


def test_the_hip_in_12_bit_jpeg_extended_decodes_through_gdcm() -> None:
    film = _film("rg2-hip-fuji-mono2-jpeg-extended.dcm")
    assert film.header.transfer_syntax_uid == "1.2.840.10008.1.2.4.51"
    assert film.header.spacing_mm == (0.2, 0.2)


def test_the_ankle_is_the_same_in_both_codecs_and_mirrored_upright() -> None:
    lossy = _film("rg3-ankle-fuji-mono1-10bit-jpeg2000.dcm")
    lossless = _film("rg3-ankle-fuji-mono1-10bit-rle.dcm")
    error = np.abs(lossy.radiograph.pixels - lossless.radiograph.pixels)
    assert error.mean() < 0.005  # stated as 30 : 1
    assert lossless.header.orientation.flipped_columns


def test_a_zero_spacing_is_not_passed_on() -> None:
    assert _film("rg1-chest-philips-mono1-15bit-jpeg2000.dcm").radiograph.spacing_mm is None


def test_a_bare_data_set_is_read_as_implicit_little_endian() -> None:
    header = _film("cr-mono1-10-chest-fuji-no-preamble.dcm").header
    assert header.transfer_syntax_uid == "1.2.840.10008.1.2"


def test_films_pass_through_the_decoder_process() -> None:
    decoder = Decoder(timeout_s=60, memory_bytes=1 << 30)
    try:
        for name in _SHAPES:
            assert decoder.read(_FOLDER / name).radiograph.pixels.shape == _SHAPES[name]
    finally:
        decoder.close()
