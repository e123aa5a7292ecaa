"""Headers are read without pixels, and say where lengths are known."""

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from dicom_node import radiograph
from dicom_node.errors import InputError
from dicom_node.orientation import Orientation
from tests.radiograph import phantom


def _header(folder: Path, **attributes: object) -> radiograph.SourceHeader:
    return radiograph.read_header(_film(folder, **attributes))


def _film(folder: Path, **attributes: object) -> Path:
    ds = phantom.data_set()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return phantom.write(ds, folder / "film.dcm")


def test_a_header_states_syntax_size_and_orientation(tmp_path: Path) -> None:
    header = _header(tmp_path, PatientOrientation=["R", "F"])
    assert header.transfer_syntax_uid == uid.ExplicitVRLittleEndian
    assert (header.rows, header.columns) == (128, 160)
    assert header.orientation == Orientation(rows=128, columns=160, flipped_columns=True)
    assert header.dataset.PatientName == "Phantom^Synthetic"


@pytest.mark.parametrize(
    ("attributes", "spacing_mm", "plane"),
    [
        ({}, None, ""),
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "calibrated"),
        ({"PixelSpacing": [0, 0]}, None, ""),
        ({"PixelSpacing": [0.2, -0.1]}, None, ""),
        ({"ImagerPixelSpacing": [0.15, 0.15]}, (0.15, 0.15), "detector"),
        ({"NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "detector"),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.15, 0.1]}, (0.15, 0.1), "detector"),
        (
            {"PixelSpacing": [0.14, 0.14], "ImagerPixelSpacing": [0.15, 0.15]},
            (0.14, 0.14),
            "calibrated",
        ),
        (
            {"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.15, 0.15]},
            (0.15, 0.15),
            "detector",
        ),
        (
            {
                "PixelSpacing": [0.15, 0.15],
                "ImagerPixelSpacing": [0.15, 0.15],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            (0.15, 0.15),
            "calibrated",
        ),
    ],
)
def test_spacing_names_its_plane(
    tmp_path: Path,
    attributes: dict[str, object],
    spacing_mm: tuple[float, float] | None,
    plane: str,
) -> None:
    header = _header(tmp_path, **attributes)
    assert (header.spacing_mm, header.spacing_plane) == (spacing_mm, plane)


def test_a_spacing_that_is_no_number_counts_as_absent(tmp_path: Path) -> None:
    path = _film(tmp_path, PixelSpacing=[0.25, 0.25])
    path.write_bytes(path.read_bytes().replace(b"0.25\\0.25", b"0.2x\\nope"))
    assert radiograph.read_header(path).spacing_mm is None


def test_the_radiograph_is_upright_with_its_spacing_turned(tmp_path: Path) -> None:
    path = _film(tmp_path, PatientOrientation=["F", "L"], PixelSpacing=[0.2, 0.1])
    film = radiograph.read(path)
    assert film.radiograph.pixels.shape == (160, 128)
    assert film.radiograph.pixels.dtype == np.float32
    assert film.radiograph.pixels.flags.c_contiguous
    assert (film.radiograph.spacing_mm, film.radiograph.spacing_plane) == ((0.1, 0.2), "calibrated")
    plain = radiograph.read(_film(tmp_path)).radiograph.pixels
    back = film.header.orientation.to_source(film.radiograph.pixels)
    np.testing.assert_array_equal(back, plain)


def test_an_aspect_ratio_gives_relative_spacing_without_a_plane(tmp_path: Path) -> None:
    film = radiograph.read(_film(tmp_path, PixelAspectRatio=[3, 2]))
    assert (film.header.spacing_mm, film.header.aspect) == (None, 1.5)
    assert (film.radiograph.spacing_mm, film.radiograph.spacing_plane) == ((1.5, 1.0), "")


def test_spacing_goes_before_the_aspect_ratio(tmp_path: Path) -> None:
    header = _header(tmp_path, PixelAspectRatio=[3, 2], PixelSpacing=[0.2, 0.1])
    assert header.aspect == 2


def test_bulk_is_left_out_and_lut_and_short_private_elements_stay(tmp_path: Path) -> None:
    ds = phantom.data_set()
    ds.add_new((0x6000, 0x0010), "US", 128)
    ds.add_new((0x6000, 0x3000), "OW", bytes(2560))
    ds.IconImageSequence = [Dataset()]
    ds.private_block(0x0099, "VENDOR", create=True).add_new(1, "OB", bytes(5000))
    ds.private_block(0x0099, "VENDOR").add_new(2, "LO", "short")
    item = Dataset()
    item.add_new(0x00991001, "OB", bytes(5000))
    ds.private_block(0x0099, "VENDOR").add_new(3, "SQ", [item])
    lut = Dataset()
    lut.LUTDescriptor = [0, 0, 16]
    lut.add_new("LUTData", "OW", bytes(131072))
    ds.VOILUTSequence = [lut]
    ds.add_new("TextValue", "UT", "x" * 65_537)
    header = radiograph.read_header(phantom.write(ds, tmp_path / "film.dcm"))
    kept = header.dataset
    left_out = {0x7FE00010, 0x60003000, 0x00880200, 0x00991001, 0x00991003, 0x0040A160}
    assert {int(tag) for tag in ds.keys()} - {int(tag) for tag in kept.keys()} == left_out  # noqa: SIM118
    assert header.left_out == {"TextValue", ""}  # "" are private
    assert kept.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian


def test_reading_pixels_and_reading_the_header_give_the_same_header(tmp_path: Path) -> None:
    path = _film(
        tmp_path, PatientOrientation=["L", "F"], PixelSpacing=[0.2, 0.2], TextValue="x" * 65_537
    )
    assert radiograph.read(path).header == radiograph.read_header(path)


def test_a_header_can_be_sent_between_processes(tmp_path: Path) -> None:
    header = _header(tmp_path)
    assert pickle.loads(pickle.dumps(header)) == header


def test_an_object_without_an_image_has_no_size(tmp_path: Path) -> None:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uid.BasicTextSRStorage, "2.25.2"
    header = radiograph.read_header(phantom.write(ds, tmp_path / "sr.dcm"))
    assert (header.rows, header.columns) == (0, 0)


@pytest.mark.parametrize(
    ("implicit", "syntax"),
    [(True, uid.ImplicitVRLittleEndian), (False, uid.ExplicitVRLittleEndian)],
)
def test_a_bare_data_set_is_read_by_how_it_is_encoded(
    tmp_path: Path, implicit: bool, syntax: str
) -> None:
    path = tmp_path / "bare"
    phantom.data_set().save_as(path, implicit_vr=implicit, little_endian=True)
    film = radiograph.read(path)
    assert film.header.transfer_syntax_uid == syntax
    assert film.radiograph.pixels.shape == (128, 160)


def test_a_deflated_header_is_read(tmp_path: Path) -> None:
    syntax = uid.DeflatedExplicitVRLittleEndian
    path = phantom.write(phantom.data_set(), tmp_path / "film.dcm", syntax)
    header = radiograph.read_header(path)
    assert (header.transfer_syntax_uid, header.rows) == (syntax, 128)


def test_a_deflated_bomb_is_not_inflated_for_its_header(tmp_path: Path) -> None:
    path = phantom.write(
        phantom.data_set(), tmp_path / "film.dcm", uid.DeflatedExplicitVRLittleEndian
    )
    meta = path.read_bytes()[: 144 + _meta_length(path)]
    claim = b"\x10\x00\x10\x00UN\x00\x00" + (1 << 27).to_bytes(4, "little")  # PatientName
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(claim + bytes(1 << 27)) + packer.flush()
    path.write_bytes(meta + packed)
    with pytest.raises(InputError, match="cut short"):
        radiograph.read_header(path)


def _meta_length(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[140:144], "little")


def test_an_element_of_an_unknown_representation_is_left_out(tmp_path: Path) -> None:
    path = _film(tmp_path, StudyDescription="any")
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x30\x10LO", b"\x08\x00\x30\x10L@"))
    assert radiograph.read_header(path).rows == 128


def test_file_meta_is_kept_with_the_data_set(tmp_path: Path) -> None:
    assert isinstance(_header(tmp_path).dataset.file_meta, FileMetaDataset)
