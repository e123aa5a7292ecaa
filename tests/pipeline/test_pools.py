"""Pools of pairs: kept in parts through kills and spent minutes, and made again of other things."""

import weakref
from collections.abc import Callable
from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dicom_node.admin.training import pairs, shares
from pipeline.training import kept, pools, rival, whole_lung
from pipeline.training.budget import Budget, OutOfTimeError
from pipeline.training.dataset import FilmRow
from pipeline.training.kept import Parts, Shelf, Tensors
from pipeline.training.pace import Pace
from pipeline.training.pairs import Counts, Material, PairMaker
from pipeline.training.pools import Encode, Pool, in_shares, make_pool
from tests.pipeline import chests
from tests.pipeline.conftest import EditPrompts

pytestmark = pytest.mark.usefixtures("one_thread")


def material(grey: int = 0) -> Material:
    """A healthy and a sick film of one hospital."""
    films = np.stack([(chests.flat() * 255).astype(np.uint8)] * 2)
    films[:, 0, 0] = grey
    rows = [row("Normal"), row("COVID")]
    lungs = np.stack([chests.lungs() * np.uint8(255)] * 2)
    return Material(films=films, lungs=lungs, rows=rows, boxes=[(), ()])


def row(label: str) -> FilmRow:
    return FilmRow(
        file=label, tar="", split="train", label=label, source="nobody", group="", patient="",
        view="PA", flags=frozenset({"portable", "supine", "lateral"}),
    )  # fmt: skip


COUNTS = Counts(pasted=1, boxed=3, healthy=1, abnormal=1, labelled=1)


def pool(
    folder: Path,
    *,
    seed: int = 0,
    grey: int = 0,
    counts: Counts = COUNTS,
    encoder: str = "a",
    encode: Encode | None = None,
    budget: Budget | None = None,
) -> tuple[Pool, list[str]]:
    """The pool kept there, and what was told of its making."""
    told: list[str] = []
    shelf = Shelf(
        folder=folder, progress=lambda _, said: told.append(said), budget=budget or Budget()
    )
    maker = PairMaker(material(grey), seed)
    return make_pool(maker, counts, encode or torch.nn.AvgPool2d(8), shelf, encoder), told


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "seed"),
        ({"grey": 9}, "films"),
        ({"counts": replace(COUNTS, healthy=2)}, "counts"),
        ({"encoder": "b"}, "encoder"),
    ],
)
def test_a_pool_made_of_something_else_is_made_again(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    path = tmp_path / "pool"
    pool(path)
    assert pool(path)[1] == []
    _, told = pool(path, **changed)  # type: ignore[arg-type]  # one of each
    assert told[0] == f"pool is made: it was made of other {said}"
    assert pool(path, **changed)[1] == []  # type: ignore[arg-type]  # the same


def test_a_pace_is_what_was_made_in_the_time_it_took() -> None:
    now, told = [5.0], list[tuple[float, str]]()
    pace = Pace("films", 100, lambda *said: told.append(said), clock=lambda: now[0])
    now[0] = 9.0
    pace(50)
    assert told == [(0.5, "50 of 100 films, 12.5 a second")]


def test_what_was_there_before_says_nothing_of_the_pace_and_of_what_is_left_all() -> None:
    now, told = [0.0], list[str]()
    pace = Pace("maps", 100, lambda _, said: told.append(said), clock=lambda: now[0])
    pace.found(40)
    now[0] = 20.0
    pace(50)
    assert told == ["50 of 100 maps, 2.0 s each"]
    assert str(pace) == "50 of 100 maps, 2.0 s each, 0:01:40 left"  # 50 more of 2 s


def test_a_pool_made_under_other_prompts_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pool"
    before, _ = pool(path)
    captions = pools.all_captions()
    monkeypatch.setattr(pools, "all_captions", lambda: ("", "A new sentence.", *captions[1:]))
    after, told = pool(path)
    assert told[0].endswith("other captions")
    assert [after.captions[i] for i in after.words] == [before.captions[i] for i in before.words]


def test_a_pool_is_made_again_where_two_words_have_changed_places(
    tmp_path: Path, edit_prompts: EditPrompts
) -> None:
    """The sentences are the same then, and each of two means what the other did."""
    path = tmp_path / "pool"
    before, _ = pool(path)
    edit_prompts(("  PA: PA", "  PA: AP"), ("  AP: AP", "  AP: PA"))
    after, told = pool(path)
    assert told[0].endswith("other captions")
    assert {before.captions[i] for i in before.normal} == {"PA chest radiograph. Normal."}
    assert {after.captions[i] for i in after.normal} == {"AP chest radiograph. Normal."}


def test_a_pool_is_made_whatever_findings_zones_and_views_are_called(
    tmp_path: Path, edit_prompts: EditPrompts
) -> None:
    edit_prompts(
        ("[pneumonia, infection]", "[pneumonic change]"),
        ("[Right upper zone, right upper lobe,", "[right upper third,"),
        ("  PA: PA", "  PA: Upright"),
    )
    made, _ = pool(tmp_path / "pool", counts=replace(COUNTS, pasted=12))
    said = {made.captions[i] for i in made.words}
    assert "Upright chest radiograph. pneumonic change." in said
    assert any(text.startswith("Upright chest radiograph. right upper third") for text in said)
    assert not [text for text in said if "pneumonia" in text or "Right upper" in text]


def test_a_pool_that_a_disk_has_cut_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pool(path)
    part = path / "0000.safetensors"
    part.write_bytes(part.read_bytes()[:-4])
    made, told = pool(path)
    assert "cannot be read" in told[0]
    assert len(made.source) == 4  # there are no boxed films to take any of


def test_films_without_healthy_lungs_are_refused_by_what_is_missing() -> None:
    blind = replace(material(), lungs=np.zeros_like(material().lungs))
    with pytest.raises(Exception, match="no Normal adult film of train"):
        list(PairMaker(blind, 0).samples(COUNTS))


def test_films_with_neither_boxes_nor_donors_still_make_pairs() -> None:
    both = material()
    well = replace(both, rows=[row("Normal"), row("Normal")])
    made = PairMaker(well, 0).samples(Counts(pasted=12, boxed=1, healthy=1, abnormal=1, labelled=1))
    assert [sample.kind for sample in made] == ["pasted"] * 12 + ["healthy"]


class KilledError(BaseException):
    """Nobody catches it, as nobody does a signal."""


MANY = Counts(pasted=4, boxed=0, healthy=4, abnormal=2, labelled=2)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "PART", 3)


def counted(kill_at: int | None = None) -> tuple[Encode, list[int]]:
    """An autoencoder that counts the films it sees, and dies when it is to see more than some."""
    seen = [0]

    def encode(films: torch.Tensor) -> torch.Tensor:
        if kill_at is not None and seen[0] + len(films) > kill_at:
            raise KilledError
        seen[0] += len(films)
        return torch.nn.functional.avg_pool2d(films, 8)

    return encode, seen


def same(one: Pool, other: Pool) -> bool:
    names = ("source", "aim", "mask", "kind", "words", "normal")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.usefixtures("small_parts")
def test_a_pool_that_was_killed_loses_a_part_at_most_and_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    dies, _ = counted(kill_at=9)
    with pytest.raises(KilledError):
        pool(tmp_path / "pool", counts=MANY, encode=dies)
    (tmp_path / "pool" / "0002.safetensors.part").write_bytes(b"cut short")
    before = {path.name: path.read_bytes() for path in (tmp_path / "pool").glob("*.safetensors")}
    encode, seen = counted()
    resumed, told = pool(tmp_path / "pool", counts=MANY, encode=encode)
    counts_all, all_seen = counted()
    whole, _ = pool(tmp_path / "whole", counts=MANY, encode=counts_all)
    assert same(resumed, whole)
    assert len(resumed.kind) == 12
    # A film of each pair, and of a pasted one its aim: 4 of each 12 pairs and of 3 parts of 4.
    assert sorted(before) == ["0000.safetensors", "0001.safetensors"]
    assert (all_seen, seen) == ([12 + 4], [16 - sum(map(films_of, before))])
    assert told[0] == "pool is made: there is none yet"
    assert told[1].startswith("7 of 12 pairs, ")
    for name, content in before.items():
        assert (tmp_path / "pool" / name).read_bytes() == content


def films_of(name: str) -> int:
    """How many films are encoded for a part of `MANY`."""
    share = in_shares(MANY, 3)[int(Path(name).stem)]
    pairs: int = sum(astuple(share))
    return pairs + share.pasted


@pytest.mark.usefixtures("small_parts")
def test_a_larger_pool_begins_with_the_parts_of_a_smaller_one(tmp_path: Path) -> None:
    encode, seen = counted()
    smaller, _ = pool(tmp_path / "pool", counts=MANY, encode=encode)
    seen[0] = 0
    double = Counts(**{kind: 2 * getattr(MANY, kind) for kind in MANY.__slots__})
    larger, told = pool(tmp_path / "pool", counts=double, encode=encode)
    assert seen == [16]
    assert torch.equal(larger.source[:12], smaller.source)
    assert told[1].startswith("13 of 24 pairs")


@pytest.mark.parametrize(
    "kinds",
    [
        shares,
        whole_lung.counts,
        lambda count: rival.counts(shares(count)),
        lambda count: replace(shares(count), boxed=0),
    ],
    ids=["diffusion and gate", "whole-lung", "rival", "without boxes"],
)
def test_whatever_is_pooled_the_parts_of_fewer_minutes_are_those_of_more(
    kinds: Callable[[int], Counts],
) -> None:
    made = [in_shares(kinds(pairs(minutes)), 1000) for minutes in range(1, 250)]
    for fewer, more in pairwise(made):
        assert more[: len(fewer) - 1] == fewer[:-1]


def test_every_part_has_its_share_of_every_kind() -> None:
    shares = in_shares(Counts(pasted=530, boxed=100, healthy=120, abnormal=70, labelled=180), 300)
    assert [sum(astuple(share)) for share in shares] == [300, 300, 300, 100]
    assert [share.pasted for share in shares] == [159, 159, 159, 53]
    tiny = Counts(pasted=1, boxed=0, healthy=0, abnormal=0, labelled=0)
    assert in_shares(tiny, 300) == [tiny]


def clock_of(step_s: float) -> Callable[[], float]:
    """Each look at it is so much later."""
    now = [0.0]

    def look() -> float:
        now[0] += step_s
        return now[0]

    return look


@pytest.mark.usefixtures("small_parts")
def test_a_pool_whose_minutes_are_spent_says_how_far_it_is_and_goes_on(tmp_path: Path) -> None:
    # Each part, of 2, 4, 4 and 2 pairs, takes 60 s: two minutes are two parts.
    encode, seen = counted()
    with pytest.raises(OutOfTimeError, match=r"kept: 6 of 12 pairs, .* left; run the command ag"):
        pool(tmp_path / "pool", counts=MANY, encode=encode, budget=Budget(2, clock_of(60)))
    with pytest.raises(OutOfTimeError, match="10 of 12 pairs"):  # never less than one
        pool(tmp_path / "pool", counts=MANY, encode=encode, budget=Budget(1e-9, clock_of(60)))
    budget = Budget(2, clock_of(60))
    made, _ = pool(tmp_path / "pool", counts=MANY, encode=encode, budget=budget)
    assert len(made.kind) == 12
    assert seen == [16]  # none of them twice
    assert budget.taken_from_learning_s() == 60


@pytest.mark.parametrize("made_s", [55, 300])
def test_minutes_of_which_less_than_a_tenth_is_left_are_not_learnt_in(made_s: float) -> None:
    budget = Budget(1, clock_of(made_s))
    with budget.making():
        pass
    with pytest.raises(OutOfTimeError, match=r"of the 1 minutes.*run the command again"):
        budget.taken_from_learning_s()


def test_parts_are_joined_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(what="ones", sizes=[4, 4, 2], origins=[{"n": str(n)} for n in range(3)])
    read: list[weakref.ref[torch.Tensor]] = []

    def watched(path: Path) -> Tensors:
        assert not [tensor for tensor in read if tensor() is not None]
        found = load_file(path)
        read.extend(map(weakref.ref, found.values()))
        return found

    monkeypatch.setattr(kept, "load_file", watched)
    made = kept.in_parts(
        Shelf(folder=tmp_path),
        parts,
        lambda number, _: {"a": torch.full((parts.sizes[number], 2), float(number))},
    )
    assert made["a"][:, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 2
    assert made["a"].untyped_storage().nbytes() == 10 * 2 * 4
    assert len(read) == 3
