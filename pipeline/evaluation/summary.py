"""The numbers of an evaluation as Markdown: no picture in it, so that it may be published."""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

COLUMNS = ("auprc", "in_lung", "pointing", "iou", "energy", "side")
"""Of the table of maps, as localisation.Localisation has them."""
_CONTROLS = {
    "shuffled": "another film's map",
    "gain_over_shuffled": "own map minus another film's, paired",
    "gain_over_shuffled_in_lungs": "the same, other maps moved onto the film's lungs",
    "sensitivity": "a region touches a box",
}

SECTIONS = {
    "reconstruction": "Reconstruction",
    "normals": "Normal films with any region",
    "status": "How far results may be relied on, by the edit's own checks",
    "image_gate": "Chest films that the image gate lets pass, and refuses turned or inverted",
    "image_score": "Image score within one source (AUROC)",
    "validity": "Validity: one classifier was asked as the edit was made, the witness never",
    "fidelity": "Fidelity of normal counterparts",
    "reliability": "Reliability",
    "seeds": "The same films from other noise",
    "oracle": "Oracle: lesions of a family unseen in training",
    "induction": "Induction",
}

_WORDS = {
    "called_abnormal": "of films that it called normal before, it calls abnormal",
    "the_same_change_elsewhere": "the same, with the same change elsewhere",
    "zone_right": "more of the change in the zone asked for than in any other",
    "zone_right_by_finding": "the same, by finding",
    "ssim_outside_lesion": "SSIM of reconstruction and decoded counterpart outside the lesion",
    "ssim_inside_lesion": "SSIM of reconstruction and decoded counterpart inside the lesion",
    "ssim_input_outside_lesion": "SSIM of film and counterpart outside the lesion, marked films",
    "ssim_input_inside_lesion": "SSIM of film and counterpart inside the lesion, marked films",
    "with_a_region": "all adult normal films",
    "without_jsrt": "without JSRT, whose outlines taught the segmenter",
    "lungs_found": "no lungs found",
    "score_sd": "SD of the score over seeds",
    "uncertainty_said": "the uncertainty that is said",
    "gate_opened_towards_normal": "mean opening of the gate to marked films, towards normal",
    "gate_opened_by_the_null_edit": "the same towards an opacity, which they show (null edit)",
    "ceiling": "with a normal film's lungs in the place of its own (ceiling)",
    "in_lungs_by_chance": "share of the change by chance that lies in the lungs",
    "by_mirror": "by the same change mirrored to the other lung",
    "gain_over_mirror": "flipped, minus the mirrored change, of the same films",
    "in_lungs_by_mirror": "share of the mirrored change that lies in the lungs",
    "sick_films": "sick films against normal ones (ceiling)",
    "minus_ceiling": "flipped, minus the ceiling, of the same films",
    "source_kept": "recognised source unchanged by the edit",
    "source_kept_ceiling": "the same with a normal film's lungs",
    "films_of_right": "films whose true source is recognised before the edit",
    "source_kept_of_right": "recognised source unchanged by the edit, of these",
    "source_kept_of_right_ceiling": "the same, of these, with a normal film's lungs",
}
"""Of names that do not say enough."""

_JUDGED = {
    "groups": "of films that the classifier calls abnormal",
    "witness": "of films that the witness calls abnormal",
}
"""Of names that stand for films where no other name is before them, and for a judge elsewhere."""


def markdown(numbers: Json) -> str:
    """Every number with its 95 % interval, in tables."""
    return "\n".join(_lines(numbers)) + "\n"


def _lines(numbers: Json) -> Iterator[str]:
    yield heading(numbers)
    if "seconds_per_film" in numbers:
        yield f"Median time of one film's evidence: {numbers['seconds_per_film']:.2f} s."
    yield from (f"- {note}" for note in numbers["notes"])
    for name, found in numbers["localisation"].items():
        yield from _localisation(name, found)
    for key, title in SECTIONS.items():
        if numbers.get(key):
            yield from _section(title, numbers[key])


def heading(numbers: Json) -> str:
    """Which model was measured, how and on what."""
    return (
        f"Model {numbers['model'][:12]}, mode {numbers['mode']}, part {numbers['part']}, without "
        f"{numbers['left_out']} films of the manifest whose patient the other part has; "
        f"features of FID and KID: {numbers['extractor']}."
    )


def _localisation(name: str, found: Json) -> Iterator[str]:
    prevalence = next(iter(found["methods"].values()))["prevalence"]
    sides, films = found["one_sided"], f"{found['films']} films of {found['patients']} patients"
    yield f"\n### {name}: {films}, prevalence {prevalence:.3f}\n"
    yield (
        f"Side: the mean of the shares of {sides['left']} films with lesions in the left half of "
        f"the film alone and of {sides['right']} in the right one.\n"
    )
    yield "| map | pixel AUPRC | in lungs | pointing | IoU | energy | side | ours minus this |"
    yield "|---|---|---|---|---|---|---|---|"
    for method, scores in found["methods"].items():
        cells = [said(scores[column]) for column in COLUMNS]
        yield f"| {method} | {' | '.join(cells)} | {said(found['gain_over'].get(method))} |"
    yield "\n| control | |"
    yield "|---|---|"
    for key, words in _CONTROLS.items():
        yield f"| {words} | {said(found[key])} |"


def _section(title: str, values: Json) -> Iterator[str]:
    yield f"\n### {title}\n"
    yield "| | |"
    yield "|---|---|"
    for name, value in flat(values):
        yield f"| {name} | {said(value)} |"


def flat(values: Json, before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as lines, their names joined; an interval is one value."""
    for name, value in values.items():
        own = _JUDGED.get(name) if not before else None
        words = f"{before}{own or _WORDS.get(name, name.replace('_', ' '))}"
        if isinstance(value, Mapping) and value and "mean" not in value:
            yield from flat(value, f"{words}: ")
        else:
            yield words, value


def said(value: object) -> str:
    """A value in words: an interval as mean [low, high] and of how many films."""
    if isinstance(value, Mapping):
        if "mean" not in value:
            return "-"
        films = f" of {value['films']}" if "films" in value else ""
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{films}"
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
