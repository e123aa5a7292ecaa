"""The sentences that the model is asked with."""

import pytest

from pipeline import prompts
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
