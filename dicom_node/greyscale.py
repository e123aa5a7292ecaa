"""Stored values to 0 black .. 1 white: Modality LUT, VOI LUT, polarity (PS3.3 C.11, PS3.4 N.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node import attributes
from dicom_node.errors import InputError
from dicom_node.pixels import Stored
from dicom_node.shutter import Mask

Values = npt.NDArray[np.float32]
"""[rows, cols] float32, in the unit that the function's docstring says."""

_TAILS_PERCENT = (0.5, 99.5)
"""Left out at both ends where no window is stated: burnt-in markers and hot pixels."""
_LEAST_SPAN = 0.1
"""Of the grey scale, between the tails; a stated window that leaves less shows nothing."""
_LEAST_GREYS = 0.05
"""Of the pixels, neither black nor white; a stated window that leaves fewer shows an outline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUpTable:
    """One LUT item: outputs from input `first` on; inputs beyond take the nearest end."""

    first: int
    outputs: npt.NDArray[np.uint16]
    bits: int


def to_grey(ds: Dataset, stored: Stored, mask: Mask) -> Values:
    """The picture in 0 black .. 1 white, black where `mask` is False.

    Raises:
        InputError: all pixels of the picture are alike, or the Modality LUT is broken.
    """
    values = modality_values(ds, stored)
    seen = values[mask]
    if not np.isfinite(seen).all() or seen.min() == seen.max():
        raise InputError("The image is constant: it shows nothing.")
    grey = _displayed(ds, values, mask)
    if is_inverse(ds):
        grey = 1 - grey
    grey[~mask] = 0
    return grey


def modality_values(ds: Dataset, stored: Stored) -> Values:
    """Stored values through the Modality LUT, else slope and intercept (PS3.3 C.11.1)."""
    item = attributes.first_item(ds, "ModalityLUTSequence")
    if item is not None:
        table = look_up_table(item)
        if table is None:
            raise InputError("The Modality LUT is broken.")
        return _looked_up(table, stored.astype(np.float32))
    slope = attributes.number(ds, "RescaleSlope")
    intercept = attributes.number(ds, "RescaleIntercept") or 0.0
    values = stored.astype(np.float32)
    return values if slope is None else values * np.float32(slope) + np.float32(intercept)


def is_inverse(ds: Dataset) -> bool:
    """Whether the least value is to be shown white.

    MONOCHROME1 says so (PS3.3 C.7.6.3.1.2), and PresentationLUTShape INVERSE says the same once
    more (C.8.11.3 demands the pair), so either or both invert once. Of an image FOR
    PROCESSING, meant for no display, the sign of the pixel intensity relationship decides: 1
    means that lower values had less X-ray intensity (C.8.11.3), which is bone, hence white.
    """
    sign = attributes.integer(ds, "PixelIntensityRelationshipSign")
    if is_for_processing(ds) and sign in (1, -1):
        return sign == 1
    monochrome1 = attributes.code(ds, "PhotometricInterpretation") == "MONOCHROME1"
    return monochrome1 or attributes.code(ds, "PresentationLUTShape") == "INVERSE"


def is_for_processing(ds: Dataset) -> bool:
    """Whether this is a detector's raw image (PS3.3 C.8.11.1)."""
    return attributes.code(ds, "PresentationIntentType") == "FOR PROCESSING"


def window(values: Values, centre: float, width: float, function: str) -> Values | None:
    """Values through a window to 0 .. 1 by PS3.3 C.11.2.1.2 and C.11.2.1.3; None if invalid."""
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    match function:
        case "SIGMOID":
            # Beyond 80 the float32 exponential overflows; the result is 0 or 1 long before.
            power = np.clip(-4 * (values - np.float32(centre)) / np.float32(width), -80, 80)
            return np.asarray(1 / (1 + np.exp(power)), np.float32)
        case "LINEAR_EXACT":
            return _ramp(values, centre - width / 2, centre + width / 2)
        case "LINEAR":
            middle, half = centre - 0.5, (width - 1) / 2
            return _ramp(values, middle - half, middle + half)
    return None


def look_up_table(item: Dataset) -> LookUpTable | None:
    """The table of a LUT sequence's item; None where it is not whole (PS3.3 C.11.1.1)."""
    descriptor = attributes.numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    length, first, bits = (int(value) for value in descriptor)
    length = length % 0x10000 or 0x10000  # 0 stands for 65536; some write it signed
    outputs = _lut_outputs(item, length)
    if outputs.size < length or not 8 <= bits <= 16:
        return None
    return LookUpTable(first=first, outputs=outputs[:length], bits=bits)


def _lut_outputs(item: Dataset, length: int) -> npt.NDArray[np.uint16]:
    data = attributes.binary(item, "LUTData")
    if data is None:
        return np.array(attributes.numbers(item, "LUTData"), np.float64).astype(np.uint16)
    if len(data) < 2 * length:  # 8-bit entries may be packed two to a word
        return np.frombuffer(data, np.uint8).astype(np.uint16)
    return np.frombuffer(data, _word_order(item), count=length).astype(np.uint16)


def _word_order(item: Dataset) -> str:
    """Byte order in which OW values were read: pydicom leaves them as they lay in the file."""
    return ">u2" if item.original_encoding[1] is False else "<u2"


def _displayed(ds: Dataset, values: Values, mask: Mask) -> Values:
    """Values through the first stated VOI transformation that shows something, else percentiles.

    The LUT goes before the window: either may be applied (PS3.3 C.11.2.1.1), and the LUT is the
    maker's tone curve, which the window only approximates.
    """
    if is_for_processing(ds):
        return _by_percentiles(_log_of_linear(ds, values), mask)
    stated: tuple[Callable[[Dataset, Values], Values | None], ...] = (_by_lut, _by_window)
    for transformation in stated:
        grey = transformation(ds, values)
        if grey is not None and _shows_something(grey[mask]):
            return grey
    return _by_percentiles(values, mask)


def _by_lut(ds: Dataset, values: Values) -> Values | None:
    item = attributes.first_item(ds, "VOILUTSequence")
    table = look_up_table(item) if item is not None else None
    if table is None:
        return None
    return _looked_up(table, values) / np.float32((1 << _used_bits(table)) - 1)


def _by_window(ds: Dataset, values: Values) -> Values | None:
    """The first of the windows: alternatives are the sender's order (PS3.3 C.11.2.1.2)."""
    centre, width = (attributes.number(ds, f"Window{part}") for part in ("Center", "Width"))
    if centre is None or width is None:
        return None
    return window(values, centre, width, attributes.code(ds, "VOILUTFunction") or "LINEAR")


def _by_percentiles(values: Values, mask: Mask) -> Values:
    seen = values[mask]
    low, high = np.percentile(seen, _TAILS_PERCENT)
    if low == high:  # nearly all alike: the few others are all there is to show
        low, high = seen.min(), seen.max()
    return _ramp(values, float(low), float(high))


def _log_of_linear(ds: Dataset, values: Values) -> Values:
    """Raw values that are linear in X-ray intensity as logarithms, others as they are.

    Intensity falls exponentially with thickness (Beer and Lambert), so the logarithm is what a
    film shows; PixelIntensityRelationship LIN, sign 1 (PS3.3 C.8.11.3).
    """
    linear = attributes.code(ds, "PixelIntensityRelationship") == "LIN"
    if not linear or attributes.integer(ds, "PixelIntensityRelationshipSign") != 1:
        return values
    return np.log1p(np.maximum(values, 0))


def _shows_something(grey: Values) -> bool:
    low, high = np.percentile(grey, _TAILS_PERCENT)
    return bool(high - low >= _LEAST_SPAN and ((grey > 0) & (grey < 1)).mean() >= _LEAST_GREYS)


def _used_bits(table: LookUpTable) -> int:
    """Bits of the LUT's output range, by its content where the descriptor is far too large.

    Senders write 16 for tables of 10 or 12 bits, which would show black; a table that leaves its
    top bit unused is read by the bits that it uses.
    """
    top = int(table.outputs.max())
    return table.bits if top >= 1 << (table.bits - 1) else max(8, top.bit_length())


def _looked_up(table: LookUpTable, values: Values) -> Values:
    index = np.clip(np.rint(values) - table.first, 0, table.outputs.size - 1).astype(np.int32)
    return np.asarray(table.outputs[index], np.float32)


def _ramp(values: Values, low: float, high: float) -> Values:
    """0 up to `low`, 1 from `high` on, straight between; a step above `low` where they meet."""
    if high <= low:
        return (values > low).astype(np.float32)
    ramp = (values - np.float32(low)) / np.float32(high - low)
    return np.asarray(np.clip(ramp, 0, 1), np.float32)
