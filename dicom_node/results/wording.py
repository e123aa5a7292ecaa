"""The words that results carry, the same in picture, report and narrative."""

import textwrap

from pipeline.types import Attribution, ModelIdentity, Region, Status

RESEARCH_WORDS = "AI-generated - research use only - not for diagnosis"
MAP_UNIT = "attribution (0 to 1)"

_PLANES = {
    "detector": "on the detector plane, not corrected for magnification",
    "calibrated": "by the film's calibrated pixel spacing",
}
_STATUS = {
    Status.VALID: "The result passed the model's checks.",
    Status.LOW_CONFIDENCE: "The result has low confidence.",
    Status.WITHHELD: "The result is withheld: no region and no picture of it is given.",
}


def number(value: float) -> float:
    """Six significant digits: all a map holds, and short enough for a DS (PS3.5 6.2, 16 bytes)."""
    return float(f"{value:.6g}")


def area_mm2(region: Region, spacing_mm: tuple[float, float]) -> float:
    """Area by pixel count."""
    return number(region.area_px * spacing_mm[0] * spacing_mm[1])


def reported_regions(attribution: Attribution) -> tuple[Region, ...]:
    """The regions that a receiver is told of: none where the result is withheld."""
    return () if attribution.status is Status.WITHHELD else attribution.regions


def model_line(model: ModelIdentity) -> str:
    """Name, version, digest (twelve digits tell models apart), mode, seed and, where it is known,
    the method's version in one line."""
    said = [
        f"{model.name} {model.version}",
        f"sha256 {model.digest[:12]}",
        f"mode {model.mode}",
        f"seed {model.seed}",
    ]
    if model.method_version:
        said.append(f"method {model.method_version}")
    return "  |  ".join(said)


def narrative(
    attribution: Attribution, spacing_mm: tuple[float, float] | None, spacing_plane: str
) -> str:
    """The result in plain words, one sentence a line."""
    model = attribution.model
    compared = (
        "The film was compared with a synthetic normal counterpart of itself, made by "
        f"{model.name} {model.version} (mode {model.mode}, seed {model.seed})."
    )
    sentences = [f"{RESEARCH_WORDS}.", compared, _status_sentence(attribution)]
    if attribution.status is not Status.WITHHELD:
        sentences.append(_count_sentence(attribution))
        sentences += [
            _region_sentence(place, region, spacing_mm, spacing_plane)
            for place, region in enumerate(attribution.regions, start=1)
        ]
        sentences.append(
            f"Score {attribution.score:.2f} (0 to 1), "
            f"uncertainty {attribution.uncertainty:.3f} {MAP_UNIT}."
        )
        sentences += _calibrated_sentences(attribution)
    return "\n".join(sentences)


def _calibrated_sentences(attribution: Attribution) -> list[str]:
    """What the score means beside healthy films, where the model has some to compare with."""
    if attribution.conformal_p is None:
        return []
    said = f"Of healthy films {attribution.conformal_p:.1%} score as high (conformal p)"
    if attribution.probability is None:
        return [f"{said}."]
    likely = f"this one would with probability {attribution.probability:.2f}"
    return [f"{said}; if every second film had a finding, {likely}."]


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most `columns` characters."""
    return textwrap.wrap(text, max(8, columns))


def _status_sentence(attribution: Attribution) -> str:
    said = _STATUS[attribution.status]
    if attribution.reasons:
        said += f" Reasons: {'; '.join(attribution.reasons)}."
    return said


def _count_sentence(attribution: Attribution) -> str:
    count = len(attribution.regions)
    noun = {0: "No region differs", 1: "One region differs"}.get(count, f"{count} regions differ")
    return f"{noun} by at least the threshold of {attribution.threshold:.3g} {MAP_UNIT}."


def _region_sentence(
    place: int, region: Region, spacing_mm: tuple[float, float] | None, spacing_plane: str
) -> str:
    if spacing_mm is None:
        area = f"{region.area_px} pixels (the film states no pixel spacing)"
    else:
        area = f"{area_mm2(region, spacing_mm):.0f} mm2 {_PLANES.get(spacing_plane, '')}".rstrip()
    return (
        f"Region {place}: area {area}; attribution peak {region.peak:.2f}, mean {region.mean:.2f}."
    )
