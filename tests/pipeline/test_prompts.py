"""The sentences that the model is asked with."""

import re
from pathlib import Path

import pytest

from pipeline import digest, prompts, testing
from pipeline.errors import ModelError
from pipeline.training import language_model, lesions, pools
from tests.pipeline import chests
from tests.pipeline.conftest import EditPrompts


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
    assert [lesions.zone_of(place, lungs) for place in places] == [
        "Right upper zone", "Left upper zone", "Right mid zone", "Left mid zone",
        "Right lower zone", "Left lower zone",
    ]  # fmt: skip
    assert {*prompts.ZONES} == set(prompts.load().zones)


def test_the_captions_are_every_sentence_once() -> None:
    # A view has 3 normal sentences, 5 findings and 6 x 5 findings in zones; and there is "".
    captions = pools.all_captions()
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


@pytest.mark.parametrize(
    "said",
    [
        "absence of right lower lobe opacity", "right lower lobe opacity is absent",
        "negative for opacity", "patient denies pneumonia", "lack of consolidation",
        "never a nodule", "neither nodule nor opacity", "opacity-free", "free of opacity",
        "clear  of opacity", "resolved RUL opacity", "pneumonia has been ruled out",
        "opacity isn't seen", "Opacity: NONE", "opacity cannot be seen", "nodules excluded",
    ],
)  # fmt: skip
def test_what_is_denied_is_not_asked_for(said: str) -> None:
    assert prompts.load().heard(said) == prompts.Heard()
    assert prompts.load().understood(said) == said


@pytest.mark.parametrize(
    "said",
    [
        "noted opacity", "notable opacity", "unresolved opacity", "knotty opacity",
        "carefree opacity", "a clear opacity", "nonetheless opacity", "blackish opacity",
        "undenied opacity", "novel opacity",
    ],
)  # fmt: skip
def test_a_denial_within_a_longer_word_denies_nothing(said: str) -> None:
    assert prompts.load().understood(said) == "Frontal chest radiograph. opacity."


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("nodules", "Frontal chest radiograph. nodule."),
        ("small masses in the left apex", "Frontal chest radiograph. Left upper zone nodule."),
        ("RML Opacities", "Frontal chest radiograph. Right mid zone opacity."),
        ("infiltrates", "Frontal chest radiograph. opacity."),
        ("consolidationes", "consolidationes"),
        ("nodulesque", "nodulesque"),
        ("opacitys", "opacitys"),
        ("right apexes", "right apexes"),
    ],
)
def test_more_than_one_of_a_finding_is_that_finding(said: str, understood: str) -> None:
    assert prompts.load().understood(said) == understood


def test_two_findings_and_two_zones_are_both_heard() -> None:
    heard = prompts.load().heard("large RUL and lingula consolidation with a small mass")
    assert heard == prompts.Heard(
        findings=("consolidation", "nodule"),
        zones=("Left mid zone", "Right upper zone"),
        left_over=("large",),
    )


def test_a_word_within_a_longer_one_names_nothing(edit_prompts: EditPrompts) -> None:
    edit_prompts(("[nodule, ", "[nodule, rounded opacity, opacity (round), "))
    for said in ("rounded opacity", "opacity (round)"):
        assert prompts.load().understood(said) == "Frontal chest radiograph. nodule."


def test_what_a_radiologist_may_say_names_one_thing_only() -> None:
    words = prompts.load()
    said = [w.lower() for names in (words.findings, words.zones) for n in names.values() for w in n]
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
        ("[nodule, ", "[nodule]], ", "cannot be read: while parsing"),
        ("normal:\n", "normal: Normal.\n", "normal: a list was expected"),
        ("induced: ", "induces: ", "induced is missing, induces is not known: on the left must "),
        ("views:\n", "views: {}\nviews:\n", "views stands twice"),
        ('labelled: "{view}', 'labelled: "{veiw}', "labelled: '{veiw} chest radiograph."),
        ('labelled: "{view}', 'labelled: "{view', "no more than {view}, {finding} may stand in"),
        ("{zone} {finding}.", "{zone}.", "lacks {finding}"),
        ("  PA: PA", "  PA: off", "views: PA: words were expected, not False"),
        ("  PA: PA", "  Portable: Portable", "views: PA is missing, Portable is not known"),
        ("  Frontal: Frontal\n", "", "views: Frontal is missing: on the left must stand PA, AP"),
        ("[tuberculosis, TB]", "TB", "findings: tuberculosis: a list was expected, not 'TB'"),
        ("[pneumonia, infection]", "[1]", "findings: pneumonia: words were expected, not 1"),
        ("[pneumonia, infection]", "[]", "findings: pneumonia: at least one was expected"),
        ("  pneumonia: ", "  pneumonic change: ", "pneumonia is missing, pneumonic change is"),
        ("  nodule: ", "  mass: [mass]\n  nodule: ", "findings: mass is not known: on the left"),
        ("zones:\n", "zones:\n  Right hilum: [hilum]\n", "zones: Right hilum is not known"),
        ("  Left mid zone: ", "  Lingula: ", "zones: Left mid zone is missing, Lingula is not"),
        ("[nodule, ", "[Opacity, ", "'Opacity' stands for opacity and for nodule"),
        ("lingula]", "RML]", "'RML' stands for Right mid zone and for Left mid zone"),
        ("lingula]", "haze]", "'haze' stands for opacity and for Left mid zone"),
        ("No finding.", "Normal.", "normal: 'PA chest radiograph. Normal.' would be said of two"),
        ("[nodule, ", "[normal, ", "labelled: 'PA chest radiograph. normal.' would be said of two"),
        ("{view} chest radiograph. Normal", "{view} " + "a " * 25, "has more than 24 words"),
        ("{zone} {finding}.", "{{zone}} {finding}.", "lacks {zone}"),
        ("{zone} {finding}.", "{zone:>9} {finding}.", "no more than {view}, {zone}, {finding} may"),
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


DOUBLED = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 41))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("a: &a {x: *a}", "&a or *a refers to another place: write the words out"),
        (DOUBLED, "&a0 or *a0 refers to"),
        (SHIPPED + "more:\n  <<: *normal\n", "&normal or *normal refers to"),
        ("[" * 800 + "]" * 800, "lists stand in lists too deep"),
    ],
    ids=["itself", "doubled", "merged", "deep"],
)
def test_a_file_that_refers_to_itself_or_has_no_bottom_is_refused(
    tmp_path: Path, held: str, said: str
) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(held, encoding="utf-8")
    with pytest.raises(ModelError, match=re.escape(said)) as caught:
        prompts.read(path)
    assert str(caught.value).startswith("prompts.yaml: cannot be read: ")


_OTHER_WORDS = (
    ("[pneumonia, infection]", "[pneumonic change, infection]"),
    ("[Right upper zone, right upper lobe,", "[right upper third,"),
    ("  AP: AP", "  AP: Portable"),
    ("  Frontal: Frontal", "  Frontal: Erect"),
)


def test_other_words_are_said_in_every_sentence(edit_prompts: EditPrompts) -> None:
    edit_prompts(*_OTHER_WORDS)
    captions = pools.all_captions()
    assert len(captions) == 3 * (3 + 5 + 30) + 1
    assert "Portable chest radiograph. right upper third pneumonic change." in captions
    assert "Erect chest radiograph. No finding." in captions
    assert not [text for text in captions if "pneumonia" in text or "Right upper" in text]
    lessons = {lesson.text: lesson.labels for lesson in language_model.templates()}
    said = "Portable chest radiograph. right upper third pneumonic change."
    assert lessons[said] == ("Right upper zone", "pneumonia")
    assert lessons["Erect chest radiograph. No right upper third nodule."] == ()


@pytest.mark.parametrize(
    "asked",
    ["Right upper zone pneumonia", "infection, right apex", "Pneumonic change Right upper third"],
)
def test_the_programs_own_names_and_all_other_words_are_understood(
    edit_prompts: EditPrompts, asked: str
) -> None:
    edit_prompts(*_OTHER_WORDS)
    understood = prompts.load().understood(asked)
    assert understood == "Erect chest radiograph. right upper third pneumonic change."


def test_other_prompts_are_another_model_and_another_layout_is_not(
    edit_prompts: EditPrompts, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    testing.write_tiny_model(folder)
    shipped = digest.model_digest(folder)
    edit_prompts(("# The words", "# A remark.\n# The words"))
    assert digest.model_digest(folder) == shipped
    edit_prompts(("radiograph. Normal.", "film. Normal."))
    assert digest.model_digest(folder) != shipped
