"""One image a transfer syntax decodes to the same values as its uncompressed twin."""

from pathlib import Path

import jpeg_ls  # type: ignore[import-untyped]  # ships neither stubs nor a marker
import numpy as np
import openjpeg.utils
import pydicom
import pytest
from pydicom import Dataset, uid

from dicom_node import greyscale, pixels, radiograph
from tests.radiograph import phantom
from tests.radiograph.phantom import Encoder, coding, coding_j2k

_HERE = Path(__file__).parent


def _native(syntax: str) -> Encoder:
    return lambda ds, folder: phantom.write(ds, folder / "native.dcm", syntax)


def _rle(ds: Dataset, folder: Path) -> Path:
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.compress(uid.RLELossless, generate_instance_uid=False)
    return phantom.write(ds, folder / "rle.dcm", uid.RLELossless)


def _jpeg_ls(syntax: str, error: int) -> Encoder:
    def encode(ds: Dataset, folder: Path) -> Path:
        frame = jpeg_ls.encode_array(phantom.picture(ds.BitsStored), lossy_error=error)
        phantom.put_frame(ds, bytes(frame))
        return phantom.write(ds, folder / "jls.dcm", syntax)

    return encode


def _htj2k(syntax: str, name: str) -> Encoder:
    def encode(ds: Dataset, folder: Path) -> Path:
        phantom.put_frame(ds, (_HERE / name).read_bytes())
        return phantom.write(ds, folder / "htj2k.dcm", syntax)

    return encode


_J2K, _J2K_LOSSY = uid.JPEG2000Lossless, uid.JPEG2000
_JLS, _JLS_LOSSY = uid.JPEGLSLossless, uid.JPEGLSNearLossless
_PEER = pytest.mark.peer
_CASES = [
    # transfer syntax, encoder, bits stored, largest error in stored units
    pytest.param(uid.ImplicitVRLittleEndian, _native(uid.ImplicitVRLittleEndian), 12, 0),
    pytest.param(uid.ExplicitVRLittleEndian, _native(uid.ExplicitVRLittleEndian), 12, 0),
    pytest.param(
        uid.DeflatedExplicitVRLittleEndian, _native(uid.DeflatedExplicitVRLittleEndian), 12, 0
    ),
    pytest.param(uid.RLELossless, _rle, 12, 0),
    pytest.param(uid.RLELossless, _rle, 16, 0),
    pytest.param(_J2K, coding_j2k(_J2K), 12, 0),
    pytest.param(_J2K, coding_j2k(_J2K), 16, 0),
    pytest.param(_J2K_LOSSY, coding_j2k(_J2K_LOSSY, 4), 12, 2),
    pytest.param(_JLS, _jpeg_ls(_JLS, 0), 12, 0),
    pytest.param(_JLS, _jpeg_ls(_JLS, 0), 16, 0),
    pytest.param(_JLS_LOSSY, _jpeg_ls(_JLS_LOSSY, 3), 12, 3),
    pytest.param(uid.HTJ2KLossless, _htj2k(uid.HTJ2KLossless, "phantom-lossless.j2c"), 12, 0),
    pytest.param(
        uid.HTJ2KLosslessRPCL, _htj2k(uid.HTJ2KLosslessRPCL, "phantom-lossless.j2c"), 12, 0
    ),
    pytest.param(uid.HTJ2K, _htj2k(uid.HTJ2K, "phantom-lossy.j2c"), 12, 10),
    pytest.param(uid.ImplicitVRLittleEndian, coding("dcmconv", "+ti"), 16, 0, marks=_PEER),
    pytest.param(uid.ExplicitVRBigEndian, coding("dcmconv", "+tb"), 12, 0, marks=_PEER),
    pytest.param(uid.ExplicitVRBigEndian, coding("dcmconv", "+tb"), 8, 0, marks=_PEER),
    pytest.param(uid.DeflatedExplicitVRLittleEndian, coding("dcmconv", "+td"), 12, 0, marks=_PEER),
    pytest.param(uid.RLELossless, coding("dcmcrle"), 12, 0, marks=_PEER),
    pytest.param(uid.JPEGBaseline8Bit, coding("dcmcjpeg", "+eb", "+sr"), 8, 8, marks=_PEER),
    pytest.param(uid.JPEGExtended12Bit, coding("dcmcjpeg", "+ee", "+sr"), 8, 8, marks=_PEER),
    pytest.param(uid.JPEGExtended12Bit, coding("dcmcjpeg", "+ee", "+sr"), 12, 20, marks=_PEER),
    pytest.param(uid.JPEGLosslessSV1, coding("dcmcjpeg", "+e1"), 12, 0, marks=_PEER),
    pytest.param(uid.JPEGLosslessSV1, coding("dcmcjpeg", "+e1"), 16, 0, marks=_PEER),
    pytest.param(uid.JPEGLossless, coding("dcmcjpeg", "+el"), 12, 0, marks=_PEER),
    pytest.param(_JLS, coding("dcmcjpls", "+el"), 12, 0, marks=_PEER),
    pytest.param(_JLS_LOSSY, coding("dcmcjpls", "+en"), 12, 2, marks=_PEER),
]


def _twin(bits: int) -> Dataset:
    picture = phantom.picture(bits)
    return phantom.data_set(picture.astype(np.uint8) if bits == 8 else picture, bits)


@pytest.mark.parametrize(("syntax", "encode", "bits", "tolerance"), _CASES)
def test_a_coded_image_decodes_to_its_uncompressed_twin(
    tmp_path: Path, syntax: str, encode: Encoder, bits: int, tolerance: int
) -> None:
    ds = pydicom.dcmread(encode(_twin(bits), tmp_path))
    assert ds.file_meta.TransferSyntaxUID == syntax
    # DCMTK may state values by a rescale slope and intercept.
    found = greyscale.modality_values(ds, pixels.stored_values(ds, syntax))
    assert np.abs(found - phantom.picture(bits)).max() <= tolerance


@pytest.mark.parametrize(("syntax", "encode", "bits", "tolerance"), _CASES)
def test_a_coded_image_is_read_as_the_same_radiograph(
    tmp_path: Path, syntax: str, encode: Encoder, bits: int, tolerance: int
) -> None:
    twin = radiograph.read(phantom.write(_twin(bits), tmp_path / "twin.dcm"))
    found = radiograph.read(encode(_twin(bits), tmp_path))
    assert found.header.transfer_syntax_uid == syntax
    grey = np.abs(found.radiograph.pixels - twin.radiograph.pixels)
    # The percentile window spans at least half of the range, so it at most doubles an error.
    assert grey.max() <= 4 * tolerance / (1 << bits)


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_native_values_keep_every_bit_and_sign(tmp_path: Path, bits: int, signed: bool) -> None:
    values = phantom.picture(bits).astype(np.int32) - (1 << (bits - 1) if signed else 0)
    stored = values.astype(np.int16 if signed else np.uint16)
    ds = pydicom.dcmread(phantom.write(phantom.data_set(stored, bits), tmp_path / "a.dcm"))
    found = pixels.stored_values(ds, uid.ExplicitVRLittleEndian)
    np.testing.assert_array_equal(found, values)


def test_signed_values_without_sign_bits_above_are_extended(tmp_path: Path) -> None:
    values = phantom.picture(12).astype(np.int32) - 2048
    ds = phantom.data_set((values & 0xFFF).astype(np.uint16), 12)
    ds.PixelRepresentation = 1
    read = pydicom.dcmread(phantom.write(ds, tmp_path / "a.dcm"))
    found = pixels.stored_values(read, uid.ExplicitVRLittleEndian)
    np.testing.assert_array_equal(found, values)


def test_values_aligned_to_the_high_bit_are_shifted_down(tmp_path: Path) -> None:
    picture = phantom.picture(12)
    ds = phantom.data_set(picture << 4, 12)
    ds.HighBit = 15
    read = pydicom.dcmread(phantom.write(ds, tmp_path / "a.dcm"))
    found = pixels.stored_values(read, uid.ExplicitVRLittleEndian)
    np.testing.assert_array_equal(found, picture)


def test_an_old_overlay_in_the_unused_bits_is_taken_off(tmp_path: Path) -> None:
    picture = phantom.picture(12)
    ds = phantom.data_set(picture | 0x8000, 12)
    ds.add_new((0x6000, 0x0102), "US", 15)  # OverlayBitPosition
    read = pydicom.dcmread(phantom.write(ds, tmp_path / "a.dcm"))
    found = pixels.stored_values(read, uid.ExplicitVRLittleEndian)
    np.testing.assert_array_equal(found, picture)


@pytest.mark.parametrize("signed_stream", [False, True])
def test_signed_jpeg_2000_gives_signed_values(tmp_path: Path, signed_stream: bool) -> None:
    values = (phantom.picture(12).astype(np.int32) - 2048).astype(np.int16)
    ds = phantom.data_set(values, 12)
    coded = values if signed_stream else (values & 0xFFF).astype(np.uint16)
    phantom.put_frame(ds, bytes(openjpeg.utils.encode_array(coded, bits_stored=12)))
    read = pydicom.dcmread(phantom.write(ds, tmp_path / "a.dcm", _J2K))
    np.testing.assert_array_equal(pixels.stored_values(read, _J2K), values)
