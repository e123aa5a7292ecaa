"""Plots of an evaluation's numbers. None of them shows a film."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.summary import Json

mpl.use("Agg")

_OURS, _OTHERS = "tab:blue", "tab:grey"


def charts(section: str, found: Json) -> Iterator[tuple[str, Figure]]:
    """The plots, with their captions, of a section of this name; most sections have one or none."""
    made = {
        "normals": _normals,
        "status": _statuses,
        "image_score": _image_scores,
        "validity": _flips,
        "reliability": _reliability,
        "induction": _induction,
    }
    if section in made:
        yield from made[section](found)


def methods(found: Json) -> Figure:
    """Pixel AUPRC of every kind of map on one group of films; ours is the other colour."""
    scores = {name: scores["auprc"] for name, scores in found["methods"].items()}
    own = [name for name in scores if name not in found["gain_over"]]
    return _bars(scores, "pixel AUPRC", ours=own)


def _normals(found: Json) -> Iterator[tuple[str, Figure]]:
    yield (
        "normal films with any region",
        _bars({"all": found["with_a_region"], **found["sources"]}, "share of films", ours=["all"]),
    )


def _statuses(found: Json) -> Iterator[tuple[str, Figure]]:
    shares = {
        f"{status}, {what} films": found[what][status]
        for what in ("normal", "abnormal")
        for status in found.get(what, ())
    }
    doubts = {
        f"{check.replace('_', ' ')}, {what} films": share
        for what, checks in found["doubted"].items()
        for check, share in checks.items()
    }
    if shares:
        yield "how far results may be relied on", _bars(shares, "share of films")
        yield "what doubts them", _bars(doubts, "share of films")


def _image_scores(found: Json) -> Iterator[tuple[str, Figure]]:
    for source, scores in found.items():
        shown = {name.replace("_", " "): one for name, one in _intervals(scores).items()}
        if shown:
            figure = _bars(shown, "AUROC", ours=list(shown)[:1])
            yield f"finding or none, within {source}: score beside audits", figure


def _flips(found: Json) -> Iterator[tuple[str, Figure]]:
    for judge, groups in (("classifier", "groups"), ("witness", "witness")):
        flips = {
            f"{name} ({group['films']})": group["flipped"]
            for name, group in found.get(groups, {}).items()
        }
        if flips:
            caption = f"called abnormal by the {judge}, and normal after the edit"
            yield caption, _bars(flips, "share of films")


def _reliability(found: Json) -> Iterator[tuple[str, Figure]]:
    if "tenths" in found:
        yield "probability and what happened", _diagram(found["tenths"])
    if "tenths" in found.get("conformal", {}):
        yield "conformal p of healthy films", _histogram(found["conformal"]["tenths"])


def _induction(found: Json) -> Iterator[tuple[str, Figure]]:
    for way in ("prompt alone", "with a mask"):
        if way in found:
            shares = found[way]["zone_right_by_finding"]
            figure = _bars(shares, "share of films")
            figure.axes[0].axvline(found["chance"], color="black", linestyle=":")
            yield f"induced by {way}: no zone has more of the change than the one asked", figure


def _intervals(values: Mapping[str, Any]) -> dict[str, Json]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, Mapping) and "mean" in value
    }


def _bars(values: Mapping[str, Json], words: str, ours: Sequence[str] = ()) -> Figure:
    """One bar an interval, 0 .. 1; what has no value is left out."""
    known = _intervals(values)
    figure = Figure(figsize=(7, 0.32 * len(known) + 0.8), layout="constrained")
    axes = figure.subplots()
    means = [value["mean"] for value in known.values()]
    ends = [
        [max(0.0, value["mean"] - value["low"]) for value in known.values()],
        [max(0.0, value["high"] - value["mean"]) for value in known.values()],
    ]
    colours = [_OURS if name in ours or not ours else _OTHERS for name in known]
    axes.barh(list(known), means, xerr=ends, color=colours, ecolor="black", height=0.6)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(words)
    return figure


def _diagram(tenths: Mapping[str, Json]) -> Figure:
    """Share of films with a finding over mean probability, each point as large as its films."""
    figure, axes = _square()
    most = max(tenth["films"] for tenth in tenths.values())
    for tenth in tenths.values():
        size = 20 + 200 * tenth["films"] / most
        at = (tenth["said"], tenth["happened"])
        axes.scatter(*at, size, color=_OURS, alpha=0.7)
        axes.annotate(
            str(tenth["films"]), at, xytext=(8, -8), textcoords="offset points", fontsize=7
        )
    axes.plot([0, 1], [0, 1], color="black", linestyle=":")
    axes.set_xlabel("mean probability said (films)")
    axes.set_ylabel("share of films with a finding")
    axes.set_ylim(-0.03, 1.03)
    return figure


def _histogram(tenths: Mapping[str, int]) -> Figure:
    """Of conformal p; the line is what a uniform p would give."""
    figure, axes = _square()
    axes.bar(range(len(tenths)), list(tenths.values()), width=1, align="edge", edgecolor="white")
    axes.axhline(sum(tenths.values()) / len(tenths), color="black", linestyle=":")
    axes.set_xticks(range(len(tenths) + 1), [f"{n / len(tenths):.1f}" for n in range(11)])
    axes.set_xlabel("conformal p")
    axes.set_ylabel("films")
    return figure


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    return figure, figure.subplots()
