"""Training: pasted lesions, the pool of pairs, runs that resume, what is learnt in seconds."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from scipy import ndimage
from torch import nn

from pipeline import anatomy, prompts, schedule
from pipeline.classifier import SOURCES
from pipeline.preprocess import GRID
from pipeline.testing import BlockAutoencoder
from pipeline.training import (
    autoencoder,
    classifier,
    diffusion,
    language_model,
    lesion_gate,
    lesions,
    pairs,
    plots,
    pools,
    rival,
    segmenter,
)
from pipeline.training.bench import Bench
from pipeline.training.dataset import Box, FilmRow
from pipeline.training.diffusion import Form, paraphrases
from pipeline.training.kept import Shelf
from pipeline.training.lesions import Donor, Paste
from pipeline.training.pairs import Counts, Material, PairMaker
from pipeline.training.pools import Pool
from pipeline.training.session import DivergedError, Recipe, Session
from tests.pipeline import chests

pytestmark = pytest.mark.usefixtures("one_thread")

Maker = Callable[[np.random.Generator], Paste]


_DRAWS = range(6)
_BOX = (60, 40, 90, 70)


def sick() -> Donor:
    """A chest with a boxed, square lesion as bright as tissue."""
    film = chests.flat()
    row0, col0, row1, col1 = _BOX
    film[row0:row1, col0:col1] = chests.TISSUE
    return Donor(film=film, lungs=chests.lungs(), box=_BOX, finding="tuberculosis")


MAKERS: dict[str, Maker] = {
    "opacity": lambda rng: lesions.opacity(rng, chests.flat(), chests.lungs()),
    "nodule": lambda rng: lesions.nodule(rng, chests.flat(), chests.lungs()),
    "borrowed": lambda rng: lesions.borrowed(rng, chests.flat(), chests.lungs(), sick()),
    "transplanted": lambda rng: lesions.transplanted(rng, chests.flat(), chests.lungs(), sick()),
}


def drawn(kind: str) -> list[tuple[Paste, chests.Plane]]:
    """Pastes and what each has changed, from several seeds."""
    pastes = [MAKERS[kind](np.random.default_rng(seed)) for seed in _DRAWS]
    return [(paste, np.abs(paste.film - chests.flat())) for paste in pastes]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_paste_is_a_film_with_a_soft_mask(kind: str) -> None:
    for paste, _ in drawn(kind):
        for plane in (paste.film, paste.mask):
            assert plane.shape == (GRID, GRID)
            assert plane.dtype == np.float32
            assert 0 <= plane.min() <= plane.max() <= 1


@pytest.mark.parametrize("kind", MAKERS)
def test_a_paste_brightens_the_lung_where_its_mask_is(kind: str) -> None:
    for paste, changed in drawn(kind):
        inside = (paste.mask > 0.9) & chests.lungs()
        assert inside.any()
        assert changed[inside].mean() > 0.02
        assert paste.film[inside].mean() > chests.LUNG


@pytest.mark.parametrize("kind", MAKERS)
def test_a_paste_changes_little_where_its_mask_is_not(kind: str) -> None:
    # Where the label is 0 the soft mask is below 0.175 (half of what counts as visible), and what
    # is blended in differs from the film by no more than lung from tissue does, and a half.
    most = 0.175 * 1.5 * (chests.TISSUE - chests.LUNG)
    for paste, changed in drawn(kind):
        assert changed[paste.mask == 0].max() < most


@pytest.mark.parametrize(
    ("kind", "soft_px"), [("opacity", 3), ("borrowed", 3), ("transplanted", 4)]
)
def test_a_paste_changes_nothing_beyond_the_soft_edge_of_the_lungs(kind: str, soft_px: int) -> None:
    # scipy's Gaussians end at four SD.
    away = ndimage.distance_transform_cdt(~chests.lungs(), "chessboard") > 4 * soft_px
    for _, changed in drawn(kind):
        assert changed[away].max() == 0


def test_a_nodule_changes_nothing_that_can_be_seen_beyond_its_edge() -> None:
    # Four SD of its edge, at most 1.5 px each, stretched by no more than two: 12 px.
    for paste, changed in drawn("nodule"):
        away = ndimage.distance_transform_edt(paste.mask == 0) > 12
        assert changed[away].max() < 1 / 255


def test_a_transplant_lies_in_its_donors_box() -> None:
    row0, col0, row1, col1 = _BOX
    for paste, _ in drawn("transplanted"):
        rows, cols = np.nonzero(paste.mask > 0.5)
        assert (rows.min(), rows.max() + 1) == pytest.approx((row0, row1), abs=3)
        assert (cols.min(), cols.max() + 1) == pytest.approx((col0, col1), abs=3)
        assert paste.zone == "Right upper zone"


def test_a_transplant_needs_a_box() -> None:
    donor = replace(sick(), box=None)
    with pytest.raises(ValueError, match="donor with a box"):
        lesions.transplanted(np.random.default_rng(0), chests.flat(), chests.lungs(), donor)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_seed_pastes_the_same(kind: str) -> None:
    first, again = MAKERS[kind](np.random.default_rng(3)), MAKERS[kind](np.random.default_rng(3))
    assert np.array_equal(first.film, again.film)
    assert (first.zone, first.finding) == (again.zone, again.finding)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_paste_is_told_in_words_that_the_prompts_have(kind: str) -> None:
    words = prompts.load()
    for paste, _ in drawn(kind):
        assert paste.zone in words.zones
        assert paste.finding in words.findings


@pytest.mark.parametrize(
    ("place", "zone"),
    [
        ((40, 30), "Right upper zone"),
        ((86, 99), "Right upper zone"),  # thirds of rows 40 to 180 meet at 86.7 and 133.3
        ((87, 99), "Right mid zone"),
        ((133, 60), "Right mid zone"),
        ((134, 60), "Right lower zone"),
        ((179, 99), "Right lower zone"),
        ((40, 124), "Left upper zone"),
        ((110, 193), "Left mid zone"),
        ((179, 193), "Left lower zone"),
    ],
)
def test_the_patients_right_is_at_the_images_left(place: tuple[int, int], zone: str) -> None:
    assert lesions.zone_of(place, chests.lungs()) == zone


def test_a_nodules_zone_names_the_side_that_it_is_seen_on() -> None:
    sides = set()
    for seed in range(20):
        paste = MAKERS["nodule"](np.random.default_rng(seed))
        centre = ndimage.center_of_mass(paste.mask)
        sides.add(paste.zone.split()[0])
        assert paste.zone.split()[0] == ("Right" if centre[1] < GRID / 2 else "Left")
    assert sides == {"Right", "Left"}


def test_a_seam_is_a_healthy_film_of_the_same_range() -> None:
    donor = Donor(film=chests.flat(), lungs=chests.lungs())
    film = lesions.seam(np.random.default_rng(0), chests.flat(), chests.lungs(), donor)
    assert np.allclose(film, chests.flat(), atol=1e-6)  # from itself: nothing to see


def test_aligning_moves_the_donors_lungs_onto_the_films() -> None:
    moved = Donor(
        film=np.roll(chests.flat(), (5, -7), (0, 1)), lungs=np.roll(chests.lungs(), (5, -7), (0, 1))
    )
    aligned = lesions.align(moved, chests.lungs())
    inner = (slice(10, -10), slice(10, -10))
    assert np.allclose(aligned[inner], chests.flat()[inner], atol=1e-6)


def test_lungs_of_one_side_are_not_usable() -> None:
    one = chests.lungs()
    one[:, GRID // 2 :] = False
    assert anatomy.usable(chests.lungs())
    assert not anatomy.usable(one)


def row(file: str, label: str, flags: str = "") -> FilmRow:
    return FilmRow(
        file=file,
        tar="",
        split="train",
        label=label,
        source="nobody",
        group="",
        patient="",
        view="PA",
        flags=frozenset(filter(None, [flags])),
    )


def material() -> Material:
    """Two healthy adults, one healthy child, one with pneumonia, one with a box."""
    rng = np.random.default_rng(0)
    films = np.stack([chests.varied(rng) * 255 for _ in range(5)]).astype(np.uint8)
    box = Box(finding="Tuberculosis", x0=0.2, y0=0.3, x1=0.4, y1=0.5)
    return Material(
        films=films,
        lungs=np.stack([chests.lungs() * np.uint8(255)] * 5),
        rows=[
            row("a", "Normal"),
            row("b", "Normal"),
            row("c", "Normal", "paediatric"),
            row("d", "COVID"),
            row("e", "Tuberculosis"),
        ],
        boxes=[(), (), (), (), (box,)],
    )


_COUNTS = Counts(pasted=4, boxed=2, healthy=3, abnormal=1, labelled=4)


def made_pool(path: Path, seed: int = 0) -> Pool:
    maker = PairMaker(material(), seed)
    return pools.make_pool(maker, _COUNTS, BlockAutoencoder().encode, Shelf(folder=path))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return made_pool(tmp_path_factory.mktemp("pool"))


_TENSORS = ("source", "aim", "mask", "kind", "words", "normal")


def test_a_pool_made_twice_is_the_same(pool: Pool, tmp_path: Path) -> None:
    again, other = made_pool(tmp_path / "again"), made_pool(tmp_path / "other", seed=1)
    assert all(torch.equal(getattr(pool, name), getattr(again, name)) for name in _TENSORS)
    assert not torch.equal(pool.source, other.source)


def test_a_pool_that_is_there_is_not_made_again(pool: Pool, tmp_path: Path) -> None:
    def refuse(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    made_pool(tmp_path / "pool")
    shelf = Shelf(folder=tmp_path / "pool")
    kept = pools.make_pool(PairMaker(material(), 0), _COUNTS, refuse, shelf)
    assert all(torch.equal(getattr(pool, name), getattr(kept, name)) for name in _TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


def test_a_pool_holds_what_was_counted_of_each_kind(pool: Pool) -> None:
    kinds = ("pasted", "boxed", "healthy", "abnormal", "labelled")
    assert {kind: len(pool.of(kind)) for kind in kinds} == {
        "pasted": 4,
        "boxed": 2,
        "healthy": 3,
        "abnormal": 1,
        "labelled": 4,
    }
    assert pool.source.shape == pool.aim.shape == (14, 64, 28, 28)
    assert pool.mask.shape == (14, 1, 28, 28)


def test_source_and_aim_differ_for_pasted_lesions_only(pool: Pool) -> None:
    differ = [not torch.equal(a, b) for a, b in zip(pool.source, pool.aim, strict=True)]
    assert differ == [True] * 4 + [False] * 10


def test_a_pairs_words_say_what_is_seen_and_its_normal_is_of_the_view(pool: Pool) -> None:
    words = [pool.captions[i] for i in pool.words.tolist()]
    assert all(" zone " in text for text in words[:4])
    assert words[4:6] == ["PA chest radiograph. tuberculosis."] * 2
    assert words[6:9] == ["PA chest radiograph. Normal."] * 3
    assert words[9] == "PA chest radiograph. pneumonia."
    assert {pool.captions[i] for i in pool.normal.tolist()} == {"PA chest radiograph. Normal."}


def test_a_boxed_film_and_what_is_cut_out_of_it_are_called_what_is_in_the_box() -> None:
    box = Box(finding="Nodule", x0=0.2, y0=0.3, x1=0.4, y1=0.5)
    rows = [*material().rows[:3], row("d", "Normal"), row("e", "Other_Abnormal")]
    alone = replace(material(), rows=rows, boxes=[(), (), (), (), (box,)])
    made = list(PairMaker(alone, 0).samples(replace(_COUNTS, pasted=40, labelled=0)))
    boxed = {sample.words for sample in made if sample.kind == "boxed"}
    assert boxed == {"PA chest radiograph. nodule."}
    assert not any("tuberculosis" in sample.words for sample in made)


def test_only_pasted_and_boxed_films_have_a_mask(pool: Pool) -> None:
    peaks = pool.mask.flatten(1).amax(1)
    assert (peaks[:6] > 0.25).all()  # a small lesion fills a part of a latent's 8 x 8 pixels
    assert (peaks[6:10] == 0).all()


def test_of_a_labelled_film_the_lungs_are_known_and_what_is_said_of_it(pool: Pool) -> None:
    places = pool.of("labelled")
    said = {pool.captions[i] for i in pool.words[places].tolist()}
    assert said <= {"PA chest radiograph. Normal.", "PA chest radiograph. pneumonia."} | {
        "PA chest radiograph. tuberculosis."
    }
    covered = pool.mask[places].float().flatten(1).mean(1)
    lungs = chests.lungs().mean()
    assert ((covered > 0.5 * lungs) & (covered < 1.5 * lungs)).all()


def test_labels_are_learnt_of_sources_with_both_in_one_hospital_only() -> None:
    rows = [
        film_row(label="Normal", source="one hospital"),
        film_row(label="Lung_Opacity", source="one hospital"),
        film_row(label="COVID", source="covid19-radiography-db"),
        film_row(label="Normal", source="covid19-radiography-db"),
        film_row(label="Tuberculosis", source="only the sick"),
        film_row(label="Normal", source="only the well"),
    ]
    films = np.repeat((chests.flat() * 255).astype(np.uint8)[None], 6, 0)
    lungs = np.repeat((chests.lungs() * 255).astype(np.uint8)[None], 6, 0)
    maker = PairMaker(Material(films=films, lungs=lungs, rows=rows, boxes=[()] * 6), seed=0)
    assert [list(lot.films) for lot in maker._labelled_lots] == [[1], [0]]
    alone = Material(films=films[:3], lungs=lungs[:3], rows=rows[1:4], boxes=[()] * 3)
    assert not PairMaker(alone, seed=0)._labelled_lots


def lungs_longer_sides(framed: float) -> list[int]:
    """In pixels of 224; a labelled film's mask is its lungs."""
    samples = PairMaker(material(), 0, framed=framed).samples(
        Counts(pasted=0, boxed=0, healthy=0, abnormal=0, labelled=24)
    )
    extents = [anatomy.extent(sample.mask > 0.5) for sample in samples]
    return [max(row1 - row0, col1 - col0) for (row0, row1), (col0, col1) in extents]


def test_films_are_seen_whole_and_in_the_frame_around_their_lungs() -> None:
    """Lungs that fill less than 0.675 of a film fill less of their frame too: 0.6 / 0.75 = 0.8."""

    def large(framed: float) -> int:
        return sum(side > 0.8 * 224 for side in lungs_longer_sides(framed))

    assert large(0.0) < large(pairs.FRAMED) < large(1.0) == 24


def test_a_labels_loss_is_told_by_the_gates_largest_cells_in_the_lungs() -> None:
    # 40 cells of lung, so the two largest speak; the cell outside is not heard.
    logits, lungs = torch.full((3, 1, 8, 8), -2.0), torch.zeros(3, 1, 8, 8)
    lungs[:, :, :5] = 1
    logits[:, 0, 0, 0], logits[:, 0, 0, 1], logits[:, 0, 7, 7] = 3.0, 1.0, 50.0
    sick = torch.tensor([1.0, 0.0, torch.nan])
    told = 2.0  # the mean of 3 and 1
    by_hand = (math.log(1 + math.exp(-told)) + math.log(1 + math.exp(told))) / 2
    assert float(diffusion.label_loss(logits, lungs, sick)) == pytest.approx(by_hand)
    assert float(diffusion.label_loss(logits, lungs * 0, sick)) == 0


def plain_lessons(pool: Pool, size: int) -> diffusion.Lesson:
    return diffusion.Lessons(pool, np.random.default_rng(0), Form.PLAIN).take(size)


def test_without_a_source_films_are_learnt_under_what_is_true_of_them(pool: Pool) -> None:
    """A half of them without a finding; a tenth of either half under nothing at all."""
    lesson = plain_lessons(pool, 4000)
    normal = torch.tensor([i for same in paraphrases(pool.captions).values() for i in same])
    empty = lesson.words == pool.captions.index("")
    well = torch.isin(lesson.words, normal)
    assert float(empty.float().mean()) == pytest.approx(0.1, abs=0.02)
    # 25 and 20 of 100 are without a finding; the pool's labelled films may be of either kind.
    assert 0.43 <= float(well[~empty].float().mean()) <= 0.53
    pasted = pool.of("pasted")
    for films in (pool.source[pasted], pool.aim[pasted]):  # with a finding, and without
        sums = films.float().flatten(1).sum(1)
        theirs = torch.isin(lesson.aim.flatten(1).sum(1), sums)
        assert float(theirs.float().mean()) == pytest.approx(0.25, abs=0.03)
        assert float(empty[theirs].float().mean()) == pytest.approx(0.1, abs=0.03)


def test_without_a_source_there_is_no_gate_and_every_time_and_place_is_judged_alike(
    pool: Pool,
) -> None:
    lesson = plain_lessons(pool, 200)
    assert bool(lesson.gate.isnan().all())
    assert bool((lesson.judged == 1).all())
    assert not lesson.only_noise.any()
    assert bool(lesson.sick.isnan().all())


def test_a_new_u_net_of_the_plain_form_gives_what_it_takes(pool: Pool, tmp_path: Path) -> None:
    recipe, words = replace(RECIPE, minutes=0), torch.zeros(len(pool.captions), 1, 256)
    unet = diffusion.train(pool, words, recipe, tmp_path, lambda *_: None, Form.PLAIN)
    assert (unet.config.in_channels, unet.config.out_channels) == (64, 64)


@pytest.mark.parametrize(("form", "share"), [(Form.PAIRED, 0.5), (Form.PLAIN, 0.001)])
def test_pairs_alone_are_learnt_from_pure_noise_half_of_the_time(
    pool: Pool, form: Form, share: float
) -> None:
    """A film without its source is made in many steps: each is learnt as often as another."""
    lesson, asked = plain_lessons(pool, 2000), list[torch.Tensor]()

    def hear(seen: torch.Tensor, t: torch.Tensor, _: torch.Tensor) -> SimpleNamespace:
        asked.append(t)
        return SimpleNamespace(sample=torch.zeros(len(seen), 65, *seen.shape[2:]))

    objective = diffusion.Objective(steps=schedule.zero_terminal(), form=form)
    torch.manual_seed(0)
    diffusion.losses(hear, lesson, torch.zeros(2000, 1, 1), "cpu", objective)
    at_the_end = (asked[0] == schedule.TRAIN_STEPS - 1).float().mean()
    assert float(at_the_end) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("form", Form)
def test_a_u_nets_form_is_told_beside_the_latents_that_it_has(
    tmp_path: Path, form: Form, channels: int
) -> None:
    """In pairs it takes 2 channels and gives 2, of one latent; so does the plain form, of two."""
    bench = Bench(data=tmp_path, work=tmp_path, device="cpu")
    diffusion.build(channels, form).save_pretrained(bench.final("diffusion"))
    autoencoder.build(channels).save_pretrained(bench.final("autoencoder"))
    assert bench.is_paired == (form is Form.PAIRED)


class Silent(nn.Module):
    """A U-Net that says 0 of everything."""

    def forward(self, seen: torch.Tensor, *_: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.zeros(len(seen), 9, *seen.shape[2:]))


def test_what_is_to_change_counts_most_and_the_step_from_noise_counts_in_full() -> None:
    # From pure noise the velocity is -aim: what is wrong with 0 is aim^2, here 4 where a quarter
    # of the film is to change (weight 1 + 8) and 1 elsewhere: (0.25 x 4 x 9 + 0.75 x 1) / 1.
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 0] = 1
    aim = (1 + mask).expand(2, 8, 4, 4).clone()
    lesson = diffusion.Lesson(
        source=torch.zeros_like(aim),
        aim=aim,
        words=torch.zeros(2),
        gate=mask,
        judged=1 + diffusion._LESION_WEIGHT * mask,
        only_noise=torch.ones(2, dtype=torch.bool),
        lungs=mask,
        sick=torch.full((2,), torch.nan),
    )
    loss = diffusion.losses(Silent(), lesson, torch.zeros(2, 1, 4), "cpu")
    assert float(loss.edit) == pytest.approx(9.75)


def test_healing_and_inducing_are_judged_where_the_lesion_is(pool: Pool) -> None:
    lessons = diffusion.Lessons(pool, np.random.default_rng(0))
    for task in ("heal", "induce"):
        lesson = lessons._one("pasted", 1.0, task)
        assert float(lesson.judged.min()) == 1
        assert float(lesson.judged.max()) == pytest.approx(9, abs=0.1)


def test_a_sick_film_of_unknown_place_teaches_its_label_alone(pool: Pool) -> None:
    lessons = diffusion.Lessons(pool, np.random.default_rng(0))
    place = int(pool.of("labelled")[0])
    for words, sick in ((pool.captions.index("PA chest radiograph. pneumonia."), 1.0), (-1, 0.0)):
        told = replace(pool, words=pool.words.clone())
        told.words[pool.of("labelled")] = words if sick else pool.normal[place]
        lesson = diffusion.Lessons(told, np.random.default_rng(0))._one("labelled", 1.0, "tell")
        assert float(lesson.sick) == sick
        assert bool(lesson.gate.isnan().all()) == bool(sick)
        assert float(lesson.judged.max()) == 1 - sick
        assert float(lesson.lungs.max()) > 0.5
    heal = lessons._one("pasted", 1.0, "heal")
    assert bool(heal.sick.isnan())
    assert not heal.lungs.any()


RECIPE = Recipe(minutes=1, batch=1, learning_rate=0.1, warmup_steps=1, weight_decay=0)


def line(weight: float = 0.0) -> nn.Linear:
    """y = weight x."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def session(folder: Path, model: nn.Module, recipe: Recipe = RECIPE) -> Session:
    return Session(model=model, recipe=recipe, folder=folder, progress=lambda *_: None)


def weight_of(model: nn.Module) -> float:
    return float(next(model.parameters()).detach())


def learn(run: Session, steps: int, towards: float = 1) -> None:
    """Pull the weight there for so many steps."""
    numbers = run.steps()
    for _ in range(steps):
        next(numbers)
        run.learn((run.model(torch.ones(1)) - towards).square().sum())
    next(numbers)  # the step before is counted


def averaged(run: Session) -> float:
    model = line()
    run.ema_into(model)
    return weight_of(model)


def test_a_run_goes_on_after_a_kill_with_the_same_step_weights_and_average(tmp_path: Path) -> None:
    first = session(tmp_path, line())
    learn(first, 3)
    first.save()
    (tmp_path / "state.safetensors.part").write_bytes(b"cut short")  # killed while it saved
    second = session(tmp_path, line(weight=9.0))
    assert (second.step, second.spent_s) == (3, first.spent_s)
    assert weight_of(second.model) == weight_of(first.model)
    assert averaged(second) == averaged(first) != weight_of(first.model)


def test_a_resumed_run_steps_as_the_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole, halved = session(tmp_path / "whole", line()), session(tmp_path / "halved", line())
    learn(whole, 3)
    learn(halved, 3)
    halved.save()
    halved = session(tmp_path / "halved", line())
    # The other way: without its moments the optimiser would turn at once.
    learn(whole, 2, towards=0)
    learn(halved, 2, towards=0)
    assert halved.step == whole.step == 5
    # The rate depends on the time that was spent, a little.
    assert weight_of(halved.model) == pytest.approx(weight_of(whole.model), abs=1e-4)
    assert averaged(halved) == pytest.approx(averaged(whole), abs=1e-4)


def test_a_budget_counts_over_all_runs(tmp_path: Path) -> None:
    first = session(tmp_path, line())
    first.spent_s = 60.0
    first.save()
    assert list(session(tmp_path, line()).steps()) == []
    assert list(session(tmp_path / "none", line(), replace(RECIPE, minutes=0)).steps()) == []


def test_a_run_ends_with_a_checkpoint(tmp_path: Path) -> None:
    said: list[float] = []
    run = session(tmp_path, line(), replace(RECIPE, minutes=1e-9))
    run.progress = lambda fraction, _: said.append(fraction)
    assert list(run.steps()) == [0]
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 1
    assert said == [1.0]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, loss: float
) -> None:
    run = session(tmp_path, line())
    learn(run, 2)
    run.save()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    weight = weight_of(run.model)
    with pytest.raises(DivergedError, match="step 2"):
        run.learn(run.model(torch.ones(1)).sum() * loss)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert weight_of(run.model) == weight
    assert session(tmp_path, line()).step == 2


def test_the_first_average_is_nine_tenths_of_the_new_weight(tmp_path: Path) -> None:
    # Decay (1 + 0) / (10 + 0).
    run = session(tmp_path, line(weight=0.5))
    run.learn((run.model(torch.ones(1)) - 1).square().sum())
    assert averaged(run) == pytest.approx(0.1 * 0.5 + 0.9 * weight_of(run.model))


@pytest.mark.parametrize(
    ("warmup_steps", "spent_s", "moved"),
    [(1, 0.0, 0.1), (200, 0.0, 0.1 / 200), (1, 60.0, 0.001), (1, 30.0, 0.1 * (0.01 + 0.99 / 2))],
)
def test_the_rate_rises_over_the_warmup_and_falls_as_a_cosine_to_1_percent(
    tmp_path: Path, warmup_steps: int, spent_s: float, moved: float
) -> None:
    # Adam's first step is the rate itself, whatever the gradient.
    run = session(tmp_path, line(), replace(RECIPE, warmup_steps=warmup_steps))
    run.spent_s = spent_s
    run.learn((run.model(torch.ones(1)) - 1).square().sum())
    assert weight_of(run.model) == pytest.approx(moved, rel=1e-4)


def test_what_is_recorded_is_a_line_each(tmp_path: Path) -> None:
    run = session(tmp_path, line())
    run.record({"loss": 0.5})
    run.step, run.spent_s = 7, 1.26
    run.record({"loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in lines] == [
        {"step": 0, "spent_s": 0.0, "loss": 0.5},
        {"step": 7, "spent_s": 1.3, "loss": 0.25},
    ]


def test_the_autoencoders_loss_falls(tmp_path: Path) -> None:
    films = material().films
    torch.manual_seed(0)
    model = autoencoder.build().to(memory_format=torch.channels_last)
    x = autoencoder.to_signed(films[:1, 48:176, 48:176])
    run = session(tmp_path, model, replace(RECIPE, learning_rate=3e-3))
    losses = []
    for _ in range(12):
        loss = autoencoder.reconstruction_loss(model, x)
        run.learn(loss)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_new_u_net_has_the_channels_of_the_pools_latents_twice_and_gives_a_gate_beside_them(
    pool: Pool, tmp_path: Path
) -> None:
    recipe, words = replace(RECIPE, minutes=0), torch.zeros(len(pool.captions), 1, 256)
    unet = diffusion.train(pool, words, recipe, tmp_path, lambda *_: None)
    assert (unet.config.in_channels, unet.config.out_channels) == (128, 65)


def test_training_the_autoencoder_writes_its_metrics_and_goes_on(tmp_path: Path) -> None:
    recipe = Recipe(minutes=1e-9, batch=1, learning_rate=1e-3)
    films = material().films
    model = autoencoder.train(films, recipe, tmp_path, lambda *_: None)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 0
    again = autoencoder.train(films, recipe, tmp_path, lambda *_: None)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 1
    assert torch.equal(
        model.encode(autoencoder.to_signed(films[:1])).latent,
        again.encode(autoencoder.to_signed(films[:1])).latent,
    )


def test_a_film_of_8_bits_is_signed_black_to_white() -> None:
    signed = autoencoder.to_signed(np.array([[[0, 255]]], np.uint8))
    assert signed.tolist() == [[[[-1.0, 1.0]]]]


def test_the_templates_say_and_deny_every_finding() -> None:
    said = language_model.templates()
    # A view: 6 x 5 findings in zones, 5 alone; denied by three forms, and in zones by one; 3
    # normal sentences ten times.
    assert len(said) == 3 * (30 + 5 + 3 * 5 + 30 + 30)
    labels = {sentence.text: sentence.labels for sentence in said}
    assert labels["PA chest radiograph. Left mid zone nodule."] == ("Left mid zone", "nodule")
    assert labels["AP chest radiograph. opacity."] == ("opacity",)


@pytest.mark.parametrize(
    "text",
    [
        "No opacity.",
        "There is no nodule.",
        "No left mid zone nodule.",
        "Without consolidation.",
        "Normal.",
        "The lungs are clear.",
    ],
)
def test_what_is_denied_has_no_label(text: str) -> None:
    labels = {sentence.text: sentence.labels for sentence in language_model.templates()}
    for view in prompts.VIEWS:
        assert labels[f"{view} chest radiograph. {text}"] == ()


def test_no_sentence_is_both_said_and_denied() -> None:
    said = language_model.templates()
    assert len({sentence.text for sentence in said}) == len({(s.text, s.labels) for s in said})


def test_reports_are_cut_into_sentences_without_the_publishers_marks(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text(
        "split,findings,impression\n"
        'train,"Heart is large. No XXXX effusion seen. Normal.",Lungs are clear?\n'
        "test,Not to be read.,At all.\n"
    )
    assert language_model.read_reports(path) == [
        "Heart is large.",
        "No effusion seen.",
        "Lungs are clear?",
    ]


def test_every_prompt_fits_into_the_text_encoders_tokens() -> None:
    captions = pools.all_captions()
    tokenizer = language_model.train_tokenizer(captions)
    ids, mask = language_model.tokenise(tokenizer, captions)
    assert ids.shape == mask.shape == (len(captions), language_model.TOKENS)
    assert int(mask.sum(1).max()) < language_model.TOKENS


def test_a_lung_mask_is_its_two_largest_parts_without_holes() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:8] = mask[2:10, 12:18] = True
    whole = mask.copy()
    mask[5, 4] = False
    mask[15:17, 15:17] = True
    assert np.array_equal(anatomy.tidy(mask), whole)
    assert not anatomy.tidy(np.zeros((4, 4), bool)).any()


def test_overlap_that_is_undecided_costs_its_entropy_and_a_missing_dice() -> None:
    # p = 1/2 everywhere, half of 4 true: ln 2 + 1 - (2 * 1 + 1) / (2 + 2 + 1).
    loss = segmenter.overlap_loss(torch.zeros(4), torch.tensor([1.0, 1, 0, 0]))
    assert float(loss) == pytest.approx(math.log(2) + 0.4)


def test_a_gate_is_judged_only_where_it_is_known() -> None:
    truth = torch.tensor([1.0, 1, 0, 0]).view(1, 1, 2, 2)
    unknown = torch.full_like(truth, math.nan)
    expected = math.log(2) + 0.5 * 0.4
    known = diffusion.gate_loss(torch.zeros_like(truth), truth)
    both = diffusion.gate_loss(torch.zeros(2, 1, 2, 2), torch.cat([truth, unknown]))
    assert (float(known), float(both)) == pytest.approx((expected, expected))
    assert float(diffusion.gate_loss(torch.ones_like(truth), unknown)) == 0


def test_a_checkpoint_has_a_picture_of_its_losses(tmp_path: Path) -> None:
    run = session(tmp_path, line())
    learn(run, 2)
    run.record({"loss": 0.5})
    run.save()
    with Pillow.open(tmp_path / "loss.png") as picture:
        assert picture.size == (700, 320)


def test_samples_are_one_table_of_films(tmp_path: Path) -> None:
    black, white = np.zeros((4, 6), np.float32), np.full((4, 6), 2.0, np.float32)
    plots.samples([[black, white], [white, black]], tmp_path / "samples.png")
    with Pillow.open(tmp_path / "samples.png") as picture:
        table = np.asarray(picture)
    assert table.shape == (8, 12)
    assert (table[:4, 6:] == 255).all()  # clipped at white
    assert not table[:4, :6].any()


def lessons_of(labels: dict[str, str]) -> classifier.Lessons:
    """One film a label, of the source beside it, in a world where all films are alike."""
    rows = [film_row(label=label, source=source) for label, source in labels.items()]
    films = np.repeat((chests.flat() * 255).astype(np.uint8)[None], len(rows), 0)
    lungs = np.repeat((chests.lungs() * 255).astype(np.uint8)[None], len(rows), 0)
    material = Material(films=films, lungs=lungs, rows=rows, boxes=[()] * len(rows))
    return classifier.Lessons(material, np.random.default_rng(0), pairs=2)


def film_row(*, label: str, source: str) -> FilmRow:
    return FilmRow(
        file="a.png", tar="", split="train", label=label, source=source, group="", patient="",
        view="", flags=frozenset(),
    )  # fmt: skip


def test_a_judge_learns_no_source_that_is_all_sick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_PAIRS", 0.0)
    lessons = lessons_of(
        {"Normal": "nih-chestxray14", "Lung_Opacity": "nih-chestxray14", "Tuberculosis": "tbx11k"}
    )
    taken = lessons.take(40)
    assert {lesson.source for lesson in taken} == {SOURCES.index("nih-chestxray14")}
    assert 5 < sum(lesson.abnormal for lesson in taken) < 35


def test_a_judges_pair_differs_by_the_lesion_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_PAIRS", 1.0)
    well, sick = lessons_of({"Normal": SOURCES[0], "Lung_Opacity": SOURCES[0]}).take(2)
    assert (well.abnormal, sick.abnormal) == (False, True)
    difference = sick.film - well.film
    assert difference.max() > 0.01
    assert (np.abs(difference) < 1e-6).mean() > 0.5  # in the same view, under the same light


def test_the_rival_is_taught_what_has_a_place_and_nothing_else() -> None:
    counts = rival.counts(Counts(pasted=2, boxed=1, healthy=2, abnormal=3, labelled=2))
    samples = list(PairMaker(material(), seed=0).samples(counts))
    films, masks = rival.lessons(lesion_gate.small(samples))
    assert films.shape == masks.shape == (5, 1, 112, 112)
    assert masks[:3].flatten(1).amax(1).min() > 0.2 * 255
    assert masks[3:].max() == 0


def test_small_sources_are_met_more_often_than_their_size() -> None:
    rows = [film_row(label="Normal", source="large")] * 9 + [
        film_row(label="Normal", source="small")
    ]
    films = np.repeat((chests.flat() * 255).astype(np.uint8)[None], 10, 0)
    lungs = np.repeat((chests.lungs() * 255).astype(np.uint8)[None], 10, 0)
    maker = PairMaker(Material(films=films, lungs=lungs, rows=rows, boxes=[()] * 10), seed=0)
    # Chances go by the root of a source's films: sqrt(9) to sqrt(1).
    assert maker._normals.chances[-1] == pytest.approx(0.25)


def test_every_paraphrase_of_normal_is_taught() -> None:
    captions = pools.all_captions()
    places = diffusion.paraphrases(captions)
    words = prompts.load()
    assert len(places) == len(words.views)
    for first, others in places.items():
        assert first in others
        assert [captions[i] for i in others] in [list(words.normal_prompts(v)) for v in words.views]
