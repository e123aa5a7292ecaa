"""The sentences that the model is asked with."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import digest, prompts, testing
from pipeline.errors import ModelError
from pipeline.training import lesions, pairs
from tests.pipeline import chests


def test_a_finding_is_said_with_its_view_and_zone() -> None:
    words = prompts.load()
    said = words.induced_prompt("Right lower zone", "consolidation", "PA")
    assert said == "PA chest radiograph. Right lower zone consolidation."
    assert words.labelled_prompt("opacity", "AP") == "AP chest radiograph. opacity."


def test_a_view_that_is_not_known_is_called_frontal() -> None:
    words = prompts.load()
    assert words.normal_prompts() == (
        "Frontal chest radiograph. Normal.",
        "Frontal chest radiograph. No finding.",
        "Frontal chest radiograph. The lungs are clear.",
    )
    assert words.labelled_prompt("nodule") == "Frontal chest radiograph. nodule."


def test_every_zone_that_a_lesion_can_lie_in_is_in_the_file() -> None:
    lungs = chests.lungs()
    places = [(row, col) for row in (45, 110, 175) for col in (50, 150)]
    assert {lesions.zone_of(place, lungs) for place in places} == set(prompts.load().zones)


def test_the_captions_are_every_sentence_once() -> None:
    # A view has 3 normal sentences, 5 findings and 6 x 5 findings in zones; and there is "".
    captions = pairs.all_captions()
    assert len(captions) == len(set(captions)) == 3 * (3 + 5 + 30) + 1
    assert captions[0] == ""


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("right lower lobe opacity", "Frontal chest radiograph. Right lower zone opacity."),
        ("LUL nodule", "Frontal chest radiograph. Left upper zone nodule."),
        ("haze at the left base", "Frontal chest radiograph. Left lower zone opacity."),
        ("TB", "Frontal chest radiograph. tuberculosis."),
        ("no opacity", "no opacity"),
        ("an enlarged heart", "an enlarged heart"),
    ],
)  # fmt: skip
def test_free_words_are_put_as_the_model_knows_them(said: str, understood: str) -> None:
    assert prompts.load().understood(said) == understood


def test_what_a_radiologist_may_say_names_one_thing_only() -> None:
    words = prompts.load()
    for names in (words.findings, words.zones):
        said = [word.lower() for name, others in names.items() for word in (name, *others)]
        assert len(said) == len(set(said))


SHIPPED = prompts.FILE.read_text(encoding="utf-8")


def edited(folder: Path, old: str, new: str) -> Path:
    """The shipped file with one place edited."""
    assert old in SHIPPED
    path = folder / "prompts.yaml"
    path.write_text(SHIPPED.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("views: [PA, AP", "views: [PA, AP]]", "cannot be read: while parsing"),
        ("normal:\n", "normal: Normal.\n", "normal: a list was expected"),
        ("induced: ", "induces: ", "missing keys: induced"),
        ("default_view: Frontal", "default_view: Frontal\nspeed: 1", "unknown keys: speed"),
        ('labelled: "{view}', 'labelled: "{veiw}', "labelled: '{veiw} chest radiograph."),
        ('labelled: "{view}', 'labelled: "{view', "no more than {view}, {finding} may stand in"),
        ("{zone} {finding}.", "{zone}.", "lacks {finding}"),
        ("views: [PA, AP, Frontal]", "views: Frontal", "views: a list was expected, not 'Frontal'"),
        ("views: [PA, AP, Frontal]", "views: []", "views: at least one was expected"),
        ("views: [PA, AP, Frontal]", "views: [PA, off]", "views: words were expected, not False"),
        ("default_view: Frontal", "default_view: Lateral", "'Lateral' is none of views"),
        ("tuberculosis: [TB]", "tuberculosis: TB", "findings: tuberculosis: a list was expected"),
        ("pneumonia: [infection]", "pneumonia: [1]", "findings: pneumonia: words were expected"),
    ],
)  # fmt: skip
def test_a_fault_in_the_file_is_told_by_its_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(said)) as caught:
        prompts.read(edited(tmp_path, old, new))
    assert str(caught.value).startswith("prompts.yaml: ")
    assert "\n" not in str(caught.value)


def test_one_sentence_that_is_no_list_is_refused(tmp_path: Path) -> None:
    start, end = SHIPPED.index("normal:"), SHIPPED.index("# A finding is induced")
    path = edited(tmp_path, SHIPPED[start:end], 'normal: "Normal."\n')
    with pytest.raises(ModelError, match=r"normal: a list was expected, not 'Normal\.'"):
        prompts.read(path)


@pytest.mark.parametrize("held", [b"", b"- a list", b"just words", b"caf\xe9: 1"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, held: bytes) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_bytes(held)
    with pytest.raises(ModelError, match=r"^prompts\.yaml: "):
        prompts.read(path)


@pytest.fixture
def in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the prompts that is in use until the test ends."""
    path = edited(tmp_path, "# The words", "# The words")
    monkeypatch.setattr(prompts, "FILE", path)
    prompts.load.cache_clear()
    yield path
    prompts.load.cache_clear()


def test_other_prompts_are_another_model_and_another_layout_is_not(
    in_use: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    testing.write_tiny_model(folder)
    shipped = digest.model_digest(folder)
    in_use.write_text(f"# A remark.\n{SHIPPED}", encoding="utf-8")
    prompts.load.cache_clear()
    assert digest.model_digest(folder) == shipped
    in_use.write_text(SHIPPED.replace("radiograph. Normal.", "film. Normal."), encoding="utf-8")
    prompts.load.cache_clear()
    assert digest.model_digest(folder) != shipped
