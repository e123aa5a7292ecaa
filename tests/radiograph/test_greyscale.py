"""LUTs, windows and polarity, by values worked out by hand from PS3.3 C.11."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, uid

from dicom_node import greyscale, radiograph
from dicom_node.errors import InputError
from tests.radiograph import phantom


def _values(*numbers: float) -> greyscale.Values:
    return np.array([numbers], np.float32)


def _ramp() -> phantom.Image:
    """[128, 160] with 0 .. 159 in every row."""
    return np.tile(np.arange(160, dtype=np.uint16), (128, 1))


def _grey(ds: Dataset, stored: phantom.Image) -> greyscale.Values:
    return greyscale.to_grey(ds, stored, np.ones(stored.shape, bool))


def _lut(*outputs: int, first: int = 0, bits: int = 8) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(outputs), first, bits]
    item.add_new("LUTData", "OW", np.array(outputs, "<u2").tobytes())
    item.set_original_encoding(False, True, "utf-8")
    return item


@pytest.mark.parametrize(
    ("function", "centre", "width", "value", "grey"),
    [
        # PS3.3 C.11.2.1.2.1, its note: c 2048, w 4096 is the identity of 0 .. 4095
        ("LINEAR", 2048, 4096, 0, 0.0),
        ("LINEAR", 2048, 4096, 4095, 1.0),
        ("LINEAR", 2048, 4096, 1024, 1024 / 4095),
        # c 2048, w 1 is a threshold: up to 2047.5 black, above it white
        ("LINEAR", 2048, 1, 2047, 0.0),
        ("LINEAR", 2048, 1, 2048, 1.0),
        # c 0, w 100: y = (x + 0.5) / 99 + 0.5
        ("LINEAR", 0, 100, -50, 0.0),
        ("LINEAR", 0, 100, 0, 0.5 / 99 + 0.5),
        ("LINEAR", 0, 100, 49, 1.0),
        # C.11.2.1.3.2: y = (x - c) / w + 0.5
        ("LINEAR_EXACT", 0, 100, 0, 0.5),
        ("LINEAR_EXACT", 0, 100, 25, 0.75),
        ("LINEAR_EXACT", 0, 100, -51, 0.0),
        ("LINEAR_EXACT", 0, 100, 51, 1.0),
        ("LINEAR_EXACT", 0.5, 0.5, 0.5, 0.5),
        # C.11.2.1.3.1: y = 1 / (1 + exp(-4 (x - c) / w)); exp(-4 / 4) = 0.36788
        ("SIGMOID", 10, 4, 10, 0.5),
        ("SIGMOID", 10, 4, 11, 0.7310586),
        ("SIGMOID", 10, 4, 9, 0.2689414),
        ("SIGMOID", 10, 4, -30000, 0.0),
        ("SIGMOID", 10, 4, 30000, 1.0),
    ],
)
def test_a_window_follows_its_function(
    function: str, centre: float, width: float, value: float, grey: float
) -> None:
    found = greyscale.window(_values(value), centre, width, function)
    assert found is not None
    assert found[0, 0] == pytest.approx(grey, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "width"),
    [("LINEAR", 0.5), ("LINEAR", 0), ("LINEAR_EXACT", 0), ("SIGMOID", -1), ("CUBIC", 10)],
)
def test_an_invalid_window_is_none(function: str, width: float) -> None:
    assert greyscale.window(_values(1), 0, width, function) is None


def test_slope_and_intercept_are_applied() -> None:
    ds = Dataset()
    ds.RescaleSlope, ds.RescaleIntercept = 2, -10
    found = greyscale.modality_values(ds, np.array([[0, 5, 6]], np.uint16))
    assert found.tolist() == [[-10, 0, 2]]


def test_a_modality_lut_maps_and_clamps() -> None:
    ds = Dataset()
    ds.ModalityLUTSequence = [_lut(100, 50, 7, first=2)]
    found = greyscale.modality_values(ds, np.array([[0, 2, 3, 4, 9]], np.uint16))
    assert found.tolist() == [[100, 100, 50, 7, 7]]


def test_a_modality_lut_that_is_too_short_is_refused() -> None:
    item = _lut(1, 2, 3)
    item.LUTDescriptor = [9, 0, 8]
    ds = Dataset()
    ds.ModalityLUTSequence = [item]
    with pytest.raises(InputError, match="Modality LUT"):
        greyscale.modality_values(ds, np.zeros((1, 1), np.uint16))


def test_a_lut_of_packed_bytes_is_read_byte_by_byte() -> None:
    item = Dataset()
    item.LUTDescriptor = [3, 0, 8]
    item.add_new("LUTData", "OW", bytes([10, 20, 30, 0]))
    table = greyscale.look_up_table(item)
    assert table is not None
    assert table.outputs.tolist() == [10, 20, 30]


def test_a_lut_length_of_zero_is_65536() -> None:
    item = Dataset()
    item.LUTDescriptor = [0, 0, 16]
    item.add_new("LUTData", "OW", bytes(2 * 65536))
    table = greyscale.look_up_table(item)
    assert table is not None
    assert table.outputs.size == 65536


@pytest.mark.parametrize("syntax", ["+ti", "+te", "+tb"])
@pytest.mark.peer
def test_a_lut_reads_alike_in_every_encoding(tmp_path: Path, syntax: str) -> None:
    ds = phantom.data_set()
    item = _lut(1, 300, 5, first=1, bits=16)
    ds.VOILUTSequence = [item]
    phantom.dcmtk("dcmconv", syntax, phantom.write(ds, tmp_path / "a"), tmp_path / "b")
    table = greyscale.look_up_table(pydicom.dcmread(tmp_path / "b").VOILUTSequence[0])
    assert table is not None
    assert (table.first, table.outputs.tolist()) == (1, [1, 300, 5])


def test_the_first_of_several_windows_is_taken() -> None:
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth = [80, 10], [161, 20]
    # c - 0.5 - (w - 1) / 2 = -0.5 and the slope is 1 / 160
    found = _grey(ds, _ramp())
    np.testing.assert_allclose(found[0], (np.arange(160) + 0.5) / 160, atol=1e-6)


def test_the_voi_lut_goes_before_the_window() -> None:
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth = 80, 161
    ds.VOILUTSequence = [_lut(*(255 - value for value in range(160)))]
    found = _grey(ds, _ramp())
    np.testing.assert_allclose(found[0], (255 - np.arange(160)) / 255, atol=1e-6)


def test_a_voi_lut_that_overstates_its_bits_is_read_by_its_content() -> None:
    ds = Dataset()
    ds.VOILUTSequence = [_lut(*(value * 6 for value in range(160)), bits=16)]
    # The largest output is 954, of 10 bits.
    np.testing.assert_allclose(_grey(ds, _ramp())[0], np.arange(160) * 6 / 1023, atol=1e-6)


@pytest.mark.parametrize(
    ("centre", "width"),
    [
        (5000, 100),  # beyond the data: all black
        (-5000, 100),  # all white
        (80, 1),  # an outline of black and white
        (80, 60000),  # one grey
        (80, 0),  # invalid
    ],
)
def test_a_window_that_shows_nothing_gives_way_to_percentiles(centre: float, width: float) -> None:
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth = centre, width
    np.testing.assert_array_equal(_grey(ds, _ramp()), _grey(Dataset(), _ramp()))


def test_without_a_window_half_a_percent_is_cut_at_both_ends() -> None:
    # Of 0 .. 159 in equal numbers (20480 px), linear percentiles at 0.5 and 99.5 are 0 and 159.
    np.testing.assert_allclose(_grey(Dataset(), _ramp())[0], np.arange(160) / 159, atol=1e-6)
    with_hot_pixel = _ramp()
    with_hot_pixel[0, 0] = 60000
    assert _grey(Dataset(), with_hot_pixel)[1, 159] == 1


def test_percentiles_leave_out_what_is_masked() -> None:
    stored = _ramp()
    stored[:64] = 9999
    mask = stored != 9999
    found = greyscale.to_grey(Dataset(), stored, mask)
    np.testing.assert_allclose(found[127], np.arange(160) / 159, atol=1e-6)
    assert (found[:64] == 0).all()


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_the_scale_is_inverted_once(photometric: str, shape: str | None, inverse: bool) -> None:
    ds = Dataset()
    ds.PhotometricInterpretation = photometric
    if shape:
        ds.PresentationLUTShape = shape
    assert greyscale.is_inverse(ds) is inverse
    ends = _grey(ds, _ramp())[0, [0, -1]].tolist()
    assert ends == ([1, 0] if inverse else [0, 1])


def _raw(relationship: str, sign: int) -> Dataset:
    ds = Dataset()
    ds.PresentationIntentType = "FOR PROCESSING"
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelIntensityRelationship = relationship
    ds.PixelIntensityRelationshipSign = sign
    ds.WindowCenter, ds.WindowWidth = 5, 2
    return ds


def test_raw_values_with_sign_1_show_low_intensity_white() -> None:
    found = _grey(_raw("LOG", 1), _ramp())[0]
    np.testing.assert_allclose(found, 1 - np.arange(160) / 159, atol=1e-6)


def test_raw_values_with_sign_minus_1_show_high_values_white() -> None:
    found = _grey(_raw("LOG", -1), _ramp())[0]
    np.testing.assert_allclose(found, np.arange(160) / 159, atol=1e-6)


def test_raw_linear_values_are_shown_by_their_logarithm() -> None:
    found = _grey(_raw("LIN", 1), _ramp())[0]
    # log(1 + 159) = log 160; 12.649 = sqrt 160 lies half-way, between 11 and 12
    assert (found[0], found[159]) == (1, 0)
    assert found[11] > 0.5 > found[12]


@pytest.mark.parametrize("slope", [0, 1])
def test_a_constant_picture_is_refused(slope: int) -> None:
    ds = Dataset()
    ds.RescaleSlope, ds.RescaleIntercept = slope, 0
    stored = _ramp() if slope == 0 else np.full((128, 160), 7, np.uint16)
    with pytest.raises(InputError, match="constant"):
        _grey(ds, stored)


def test_a_picture_of_two_values_is_shown(tmp_path: Path) -> None:
    stored = np.zeros((128, 160), np.uint16)
    stored[64, 80] = 1
    path = phantom.write(phantom.data_set(stored), tmp_path / "a", uid.ImplicitVRLittleEndian)
    assert radiograph.read(path).radiograph.pixels.sum() == 1
