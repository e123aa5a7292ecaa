"""The DICOM node: reception, routing, work, results, delivery, and their administration."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vald-node")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
