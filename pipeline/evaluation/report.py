"""One self-contained HTML page of an evaluation: tables, plots, and films best and worst alike.

It holds pictures of real films. It is for whoever has the data, never for a repository.
"""

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Pillow

from pipeline.evaluation import charts, localisation, summary
from pipeline.evaluation.cases import SIDE, Case
from pipeline.evaluation.measure import Evaluation
from pipeline.evaluation.tables import Json
from pipeline.types import Image

_SHOWN = 3  # best, middle and worst films of a group, so many each at most
_PANELS = (
    "film", "normal counterpart", "where the map reaches the threshold", "whole map",
    "what readers marked, the rest darker",
)  # fmt: skip
"""Of a film in the gallery, from left to right."""
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; color: #222; }
table { border-collapse: collapse; margin: .6em 0 1.4em; }
td, th { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: left; }
td + td { font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .4em .8em .4em 0; } figcaption { font-size: 13px; }
.warning { background: #fff3d6; padding: .6em 1em; }
"""


def write(made: Evaluation, path: Path, threshold: float, scale_max: float) -> None:
    """`path` is the page; the map's colours run from its threshold to the top of its scale."""
    body = "".join(_body(made, threshold, scale_max))
    title = f"VALD evaluation on {html.escape(str(made.numbers['part']))}"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><body><h1>{title}</h1>{body}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _body(made: Evaluation, threshold: float, scale_max: float) -> Iterator[str]:
    numbers = made.numbers
    yield '<p class="warning">Research only, not for diagnosis. Holds films: do not pass it on.</p>'
    yield f"<p>{html.escape(summary.heading(numbers))}</p>"
    if "seconds_per_film" in numbers:
        yield f"<p>{numbers['seconds_per_film']:.2f} s a film here.</p>"
    yield from (f"<p>{html.escape(note)}</p>" for note in numbers["notes"])
    for name, found in numbers["localisation"].items():
        yield f"<h2>{html.escape(name)}, {found['films']} films</h2>"
        yield _methods_table(found)
        yield _picture(charts.methods(found), "pixel AUPRC with 95 % intervals")
        yield _table({key: found[key] for key in found if key not in ("methods", "films")})
        yield from _gallery(made.cases[name], threshold, scale_max)
    for key, title in summary.SECTIONS.items():
        if numbers.get(key):
            yield f"<h2>{html.escape(title)}</h2>"
            for caption, figure in charts.charts(key, numbers[key]):
                yield _picture(figure, html.escape(caption))
            yield _table(numbers[key])


def _methods_table(found: Json) -> str:
    head = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in summary.COLUMNS)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{_cell(scores[column])}</td>" for column in summary.COLUMNS)
        + f"<td>{_cell(found['gain_over'].get(name, ''))}</td></tr>"
        for name, scores in found["methods"].items()
    )
    return f"<table><tr><th>map</th>{head}<th>ours minus this</th></tr>{rows}</table>"


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_cell(value)}</td></tr>"
        for name, value in summary.flat(values)
    )
    return f"<table>{rows}</table>"


def _cell(value: object) -> str:
    return html.escape(summary.said(value))


def _gallery(cases: Sequence[Case], threshold: float, scale_max: float) -> Iterator[str]:
    """Best, middle and worst by AUPRC: input, counterpart, map as the product colours it, truth."""
    scored = sorted(cases, key=lambda c: -localisation.average_precision(c.truth, c.own))
    for word, ranks in picks(len(scored)).items():
        for case in (scored[rank] for rank in ranks):
            score = localisation.average_precision(case.truth, case.own)
            strip = np.concatenate(_panels(case, threshold, scale_max), axis=1)
            told = f"{word}: {html.escape(case.row.file)}, AUPRC {score:.2f}"
            yield _figure(_png(strip), f"{told}; from the left: {', '.join(_PANELS)}")


def picks(films: int) -> dict[str, range]:
    """Which of so many films, best first, are shown as what: none twice."""
    each = max(1, min(_SHOWN, films // 3))
    worst = range(max(each, films - each), films)
    middle = max(each, (films - each) // 2)
    return {
        "best": range(min(each, films)),
        "middle": range(middle, min(middle + each, worst.start)),
        "worst": worst,
    }


def _panels(case: Case, threshold: float, scale_max: float) -> list[np.ndarray]:
    film = localisation.to_side(case.evidence.plane, SIDE)
    normal = localisation.to_side(case.pair.counterfactual, SIDE)
    shown = ((case.own - threshold) / max(scale_max - threshold, 1e-6)).clip(0, 1)
    visible = case.own >= threshold
    heat = mpl.colormaps["inferno"](0.35 + 0.65 * shown)[..., :3]
    overlay = np.where(visible[..., None], 0.45 * _grey(film) + 0.55 * heat, _grey(film))
    raw = mpl.colormaps["viridis"]((case.own / scale_max).clip(0, 1))[..., :3]
    truth = _grey(film) * np.where(case.truth[..., None], 1.0, 0.55)
    return [_grey(film), _grey(normal), overlay, raw, truth]


def _grey(plane: Image) -> np.ndarray:
    return np.repeat(plane.clip(0, 1)[..., None], 3, axis=2)


def _picture(figure: Figure, caption: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return _figure(file.getvalue(), caption)


def _png(planes: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray((planes.clip(0, 1) * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def write_numbers(made: Evaluation, path: Path) -> None:
    """`path` is the JSON of every number."""
    path.write_text(json.dumps(made.numbers, indent=1) + "\n", encoding="utf-8")


def write_summary(made: Evaluation, path: Path) -> None:
    """`path` is every number as Markdown, without a picture."""
    path.write_text(summary.markdown(made.numbers), encoding="utf-8")
