"""What a probe pools, reads and learns, by hand; and that it looks at the lungs alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import probe
from pipeline.errors import DatasetError, ModelError
from pipeline.probe import Probe
from pipeline.training import probing
from pipeline.training.dataset import FilmRow
from pipeline.training.probing import Taught


def row(source: str, label: str, number: int) -> FilmRow:
    return FilmRow(
        file=f"{number}.png", tar="", split="train", label=label, source=source, group="",
        patient="", view="", flags=frozenset(),
    )  # fmt: skip


def test_a_channel_is_pooled_over_the_hull_alone() -> None:
    hull = np.zeros((8, 8), np.float32)
    hull[:4] = 1  # the upper two rows of a state of 4 x 4
    state = torch.full((1, 4, 4), 100.0)
    state[0, :2] = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 8]])
    mean, highest, sd = probe.pooled([state], hull)
    assert mean == pytest.approx(24 / 8)
    assert highest == pytest.approx(8)  # of eight cells the highest tenth is one
    # 2 (1-3)^2 + 2 (2-3)^2 + 0 + (4-3)^2 + (8-3)^2 = 36, of 8
    assert sd == pytest.approx((36 / 8) ** 0.5)


def test_blocks_of_any_size_stand_one_after_the_other() -> None:
    hull = np.ones((8, 8), np.float32)
    blocks = [torch.full((2, 2, 2), 5.0), torch.full((1, 8, 8), 7.0)]
    assert probe.pooled(blocks, hull).tolist() == [5, 5, 5, 5, 0, 0, 7, 7, 0]


def test_a_hull_smaller_than_a_cell_is_still_read() -> None:
    hull = np.zeros((8, 8), np.float32)
    hull[0, 0] = 1
    state = torch.arange(4.0).view(1, 2, 2)
    assert probe.pooled([state], hull).tolist() == [0, 0, 0]


def test_a_reading_is_the_weighed_sum_and_says_nothing_without_traits() -> None:
    made = Probe(weights=np.array([1, -2], np.float32), bias=0.5)
    traits = np.array([3, 1], np.float32)
    assert probe.reading(made, traits) == pytest.approx(3 - 2 + 0.5)
    assert probe.reading(made, None) == probe.reading(None, traits) == 0.0


def test_a_probe_comes_back_from_its_folder_and_fits_its_u_net_alone(tmp_path: Path) -> None:
    assert probe.load(tmp_path, 1) is None
    probe.save(Probe(weights=np.array([1, 2, 3], np.float32), bias=-1.0), tmp_path)
    again = probe.load(tmp_path, 1)
    assert again is not None
    assert (again.weights.tolist(), again.bias) == ([1, 2, 3], -1.0)
    with pytest.raises(ModelError, match="6 weights"):
        probe.load(tmp_path, 2)
    probe.save(Probe(weights=np.array([1, np.nan, 3], np.float32), bias=0.0), tmp_path)
    with pytest.raises(ModelError, match="numbers"):
        probe.load(tmp_path, 1)
    (tmp_path / probe.FILE).write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match=probe.FILE):
        probe.load(tmp_path, 1)


def test_what_tells_sources_apart_teaches_nothing() -> None:
    """One number is the source's, and sicker sources have more of it; the other is the disease's.

    In each source the disease adds 1 to the second number; the first is 0 in one source, of which
    a tenth is sick, and 5 in the other, of which nine tenths are.
    """
    rng = np.random.default_rng(0)
    sources = np.repeat(["a", "b"], 200)
    sick = np.concatenate([np.arange(200) < 20, np.arange(200) < 180])
    noise = rng.normal(0, 0.2, (400, 2))
    traits = noise + np.stack([5.0 * (sources == "b"), 1.0 * sick], 1)
    made = probing.fit(Taught(traits=traits, sources=list(sources), sick=sick))
    scale = traits.std(0)
    assert abs(made.weights[0] * scale[0]) < 0.1 * abs(made.weights[1] * scale[1])
    means = [np.mean([made.log_odds(t) for t in traits[sick == kind]]) for kind in (False, True)]
    assert means[0] < 0 < means[1]


def test_films_are_chosen_of_sources_with_both_classes_and_few_of_each() -> None:
    rows = [row("both", "Normal", n) for n in range(50)]
    rows += [row("both", "COVID", 100 + n) for n in range(30)]
    rows += [row("sick", "Tuberculosis", 200 + n) for n in range(90)]
    found = probing.chosen(rows, 25, seed=0)
    assert {r.source for r in found} == {"both"}
    assert [sum(r.label == label for r in found) for label in ("Normal", "COVID")] == [25, 25]
    assert len(probing.chosen(rows, 0, seed=0)) == 80
    with pytest.raises(DatasetError, match="no source has 20 films"):
        probing.chosen([r for r in rows if r.source == "sick"], 25, seed=0)
