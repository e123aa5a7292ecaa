"""What cannot be analysed is refused with its reason, and without patient data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openjpeg.utils
import pydicom
import pytest
from pydicom import Dataset, uid

from dicom_node import radiograph
from dicom_node.errors import InputError
from tests.radiograph import phantom

Spoil = Callable[[Dataset], None]


def _setting(keyword: str, value: object) -> Spoil:
    return lambda ds: setattr(ds, keyword, value)


def _without(keyword: str) -> Spoil:
    return lambda ds: delattr(ds, keyword)


def _side(rows: int, columns: int) -> Spoil:
    def spoil(ds: Dataset) -> None:
        ds.Rows, ds.Columns = rows, columns
        phantom.put_pixels(ds, bytes(2 * rows * columns))

    return spoil


def _pixels(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda ds: phantom.put_pixels(ds, change(ds.PixelData))


def _eleven_bits(ds: Dataset) -> None:
    ds.BitsStored, ds.HighBit = 11, 10  # of values that need twelve


def _colour(ds: Dataset) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    ds.PlanarConfiguration = 0
    phantom.put_pixels(ds, bytes(6 * ds.Rows * ds.Columns))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(_without("PixelData"), "no pixel data", id="no pixels"),
        pytest.param(_colour, "in colour", id="colour"),
        pytest.param(
            _setting("PhotometricInterpretation", "PALETTE COLOR"), "colour", id="palette"
        ),
        pytest.param(_without("PhotometricInterpretation"), "greyscale", id="no interpretation"),
        pytest.param(_setting("NumberOfFrames", 2), "several frames", id="frames"),
        pytest.param(_side(127, 200), "least is 128", id="few rows"),
        pytest.param(_side(200, 127), "least is 128", id="few columns"),
        pytest.param(_side(128, 20001), "most is 20000", id="many columns"),
        pytest.param(_without("Rows"), "Rows is missing", id="no rows"),
        pytest.param(_setting("BitsAllocated", 32), "BitsAllocated is 32", id="32 bits"),
        pytest.param(_setting("BitsStored", 7), "fewer than 8", id="7 bits"),
        pytest.param(_setting("BitsStored", 17), "do not fit", id="more stored than cell"),
        pytest.param(_setting("HighBit", 16), "do not fit", id="high bit beyond cell"),
        pytest.param(_eleven_bits, "exceed the 11 bits", id="bits lie"),
        pytest.param(_pixels(lambda p: p[:-2]), "truncated", id="a pixel short"),
        pytest.param(_pixels(lambda p: p[:0]), "no pixel data", id="empty"),
        pytest.param(_pixels(lambda p: p + p[:256]), "rows, columns and bits", id="a row long"),
        pytest.param(_setting("Columns", 161), "truncated", id="columns lie"),
        pytest.param(_pixels(lambda p: bytes(len(p))), "constant", id="constant"),
        pytest.param(_setting("RescaleSlope", 0), "constant", id="slope 0"),
    ],
)
def test_an_unusable_image_is_refused(tmp_path: Path, spoil: Spoil, reason: str) -> None:
    ds = phantom.data_set()
    spoil(ds)
    with pytest.raises(InputError, match=reason) as caught:
        radiograph.read(phantom.write(ds, tmp_path / "film.dcm"))
    assert "Phantom" not in str(caught.value)


def test_padding_of_less_than_a_row_is_tolerated(tmp_path: Path) -> None:
    ds = phantom.data_set()
    phantom.put_pixels(ds, ds.PixelData + bytes(254))
    assert radiograph.read(phantom.write(ds, tmp_path / "film.dcm")).radiograph.pixels.any()


@pytest.mark.parametrize("bits", [8, 16])
def test_odd_sizes_and_limits_are_read(tmp_path: Path, bits: int) -> None:
    cell = np.uint8 if bits == 8 else np.uint16
    stored: npt.NDArray[np.integer] = np.arange(129 * 131).reshape(129, 131).astype(cell)
    path = phantom.write(phantom.data_set(stored, bits), tmp_path / "film.dcm")
    assert radiograph.read(path).radiograph.pixels.shape == (129, 131)


def _j2k(tmp_path: Path, change: Callable[[bytes], bytes], **stated: int) -> Path:
    """A JPEG 2000 film whose frame was changed, or whose data set says other than the frame."""
    ds = phantom.data_set()
    frame = bytes(openjpeg.utils.encode_array(phantom.picture(12), bits_stored=12))
    phantom.put_frame(ds, change(frame))
    for keyword, value in stated.items():
        setattr(ds, keyword, value)
    return phantom.write(ds, tmp_path / "film.dcm", uid.JPEG2000Lossless)


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"Rows": 160, "Columns": 128}, "128 x 160 pixels"),
        ({"Rows": 129}, "128 x 160 pixels"),
        ({"BitsStored": 13, "HighBit": 12}, "has 12 bits"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "has 12 bits"),
    ],
)
def test_a_frame_that_says_other_than_its_data_set_is_refused(
    tmp_path: Path, stated: dict[str, int], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        radiograph.read(_j2k(tmp_path, lambda frame: frame, **stated))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda f: f[: len(f) // 2], "end marker", id="half"),
        pytest.param(lambda f: f[:20], "own header", id="header only"),
        pytest.param(lambda f: f[2:], "not a JPEG 2000", id="no start"),
        pytest.param(lambda f: b"\xff\xd8" + f[4:], "not a JPEG 2000", id="another codec"),
        pytest.param(lambda f: f[:60] + b"\xff\xd9", "cannot be decoded", id="nothing inside"),
    ],
)
def test_a_broken_frame_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        radiograph.read(_j2k(tmp_path, change))


def test_a_colour_frame_under_a_grey_header_is_refused(tmp_path: Path) -> None:
    colour = np.zeros((128, 160, 3), np.uint8)
    frame = bytes(openjpeg.utils.encode_array(colour, photometric_interpretation=1))
    ds = phantom.data_set(phantom.picture(8).astype(np.uint8), 8)
    phantom.put_frame(ds, frame)
    with pytest.raises(InputError, match="colour"):
        radiograph.read(phantom.write(ds, tmp_path / "film.dcm", uid.JPEG2000Lossless))


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEGBaseline8Bit])
@pytest.mark.parametrize(
    "frame",
    [b"\x00" * 8, b"\xff\xd8\xff\xd9", b"\xff" * 90, b"\x02" + bytes(63) + b"\x01\x02"],
)
def test_junk_frames_are_refused(tmp_path: Path, syntax: str, frame: bytes) -> None:
    ds = phantom.data_set(phantom.picture(8).astype(np.uint8), 8)
    phantom.put_frame(ds, frame)
    with pytest.raises(InputError):
        radiograph.read(phantom.write(ds, tmp_path / "film.dcm", syntax))


def test_a_truncated_rle_frame_is_refused(tmp_path: Path) -> None:
    ds = phantom.data_set()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.compress(uid.RLELossless, generate_instance_uid=False)
    item_header = 8 + 8  # an empty offset table, then the fragment's own
    phantom.put_frame(ds, ds.PixelData[item_header:-2000])
    with pytest.raises(InputError, match="RLE"):
        radiograph.read(phantom.write(ds, tmp_path / "film.dcm", uid.RLELossless))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (bytes(64), "not one segment for each byte"),
        (b"\x02" + bytes(63), "cannot be decoded|empty segment"),
        (b"\x01\x00\x00\x00\x40" + bytes(59) + b"\x80\x80", "not one segment"),
        (b"\x02\x00\x00\x00\x40\x00\x00\x00\x42" + bytes(55) + b"\x80\x80" * 2, "fit its size"),
    ],
)
def test_an_rle_frame_with_wrong_segments_is_refused(
    tmp_path: Path, frame: bytes, reason: str
) -> None:
    ds = phantom.data_set()
    phantom.put_frame(ds, frame)
    with pytest.raises(InputError, match=reason):
        radiograph.read(phantom.write(ds, tmp_path / "film.dcm", uid.RLELossless))


def test_native_pixels_under_a_compressed_syntax_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    ds = phantom.data_set()
    phantom.write(ds, path)
    lie = path.read_bytes().replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.5\x00")
    path.write_bytes(lie)
    with pytest.raises(InputError, match="stated to be compressed"):
        radiograph.read(path)


def test_an_unknown_syntax_is_refused(tmp_path: Path) -> None:
    ds = phantom.data_set()
    phantom.put_frame(ds, b"\x00\x00\x01\xb3")
    with pytest.raises(InputError, match=r"MPEG2.* not supported"):
        radiograph.read(phantom.write(ds, tmp_path / "film.dcm", uid.MPEG2MPML))


@pytest.mark.parametrize("length", [0, 3, 140, 300, 500, 2000, 4100])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = phantom.write(phantom.data_set(), tmp_path / "film.dcm")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError):
        radiograph.read(path)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.DeflatedExplicitVRLittleEndian])
def test_a_cut_compressed_file_is_refused(tmp_path: Path, syntax: str) -> None:
    if syntax == uid.JPEG2000Lossless:
        path = _j2k(tmp_path, lambda frame: frame)
    else:
        path = phantom.write(phantom.data_set(), tmp_path / "film.dcm", syntax)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError):
        radiograph.read(path)


@pytest.mark.parametrize(
    "junk", [b"hello " * 99, bytes(1000), b"\xff" * 1000, b"\x89PNG\r\n\x1a\n" + bytes(range(200))]
)
def test_what_is_not_dicom_is_refused(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "junk").write_bytes(junk)
    for reader in (radiograph.read, radiograph.read_header):
        with pytest.raises(InputError, match="no DICOM object"):
            reader(tmp_path / "junk")


def test_a_missing_file_is_not_the_images_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        radiograph.read(tmp_path / "none")
