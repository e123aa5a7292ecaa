"""Copies of a film in other transfer syntaxes, made by GDCM's and DCMTK's converters."""

from pathlib import Path

import gdcm
import pydicom
from pydicom.uid import generate_uid

from tests.peers import tools

_DCMTK = {
    "implicit": ("dcmconv", "+ti"),
    "big endian": ("dcmconv", "+tb"),
    "deflated": ("dcmconv", "+td"),
    "RLE": ("dcmcrle",),
    "JPEG lossless": ("dcmcjpeg", "+e1"),
    "JPEG-LS lossless": ("dcmcjpls", "+el"),
}
SYNTAXES = ("explicit", *_DCMTK, "JPEG 2000 lossless")


def copy_of(film: Path, syntax: str, folder: Path) -> Path:
    """The film's pixels and header in the syntax, as another instance; where it lies."""
    plain = folder / f"{film.stem}.raw.dcm"
    # GDCM names no classes in the file meta of a film that came without one: pydicom does.
    _by_gdcm(film, gdcm.TransferSyntax.ExplicitVRLittleEndian, plain)
    _rename(plain)
    if syntax == "explicit":
        return plain
    copy = folder / f"{film.stem}.dcm"
    if syntax in _DCMTK:
        done = tools.run(*_DCMTK[syntax], plain, copy)
        assert done.returncode == 0, done.stderr
    else:
        _by_gdcm(plain, gdcm.TransferSyntax.JPEG2000Lossless, copy)
    assert _syntax(copy) != _syntax(plain), copy
    return copy


def _by_gdcm(film: Path, syntax: int, copy: Path) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(film))
    assert reader.Read(), film
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change(), film
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(copy))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write(), copy


def _rename(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.save_as(path, enforce_file_format=True)


def _syntax(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
