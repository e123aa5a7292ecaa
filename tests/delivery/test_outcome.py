import pytest

from dicom_node.delivery.outcome import Fate, of_rejection, of_status


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (0x0000, Fate.DELIVERED),
        (0xB000, Fate.DELIVERED),
        (0xB006, Fate.DELIVERED),
        (0xB007, Fate.DELIVERED),
        (0xB123, Fate.DELIVERED),
        (0x0111, Fate.DELIVERED),
        (0xA700, Fate.POSTPONED),
        (0xA7FF, Fate.POSTPONED),
        (0x0110, Fate.POSTPONED),
        (0x0213, Fate.POSTPONED),
        (0xFE00, Fate.POSTPONED),
        (0x1234, Fate.POSTPONED),
        (0x0124, Fate.POSTPONED_SLOWLY),
        (0xA900, Fate.REFUSED),
        (0xA9FF, Fate.REFUSED),
        (0xC000, Fate.REFUSED),
        (0xCFFF, Fate.REFUSED),
        (0x0122, Fate.REFUSED),
        (0x0117, Fate.REFUSED),
    ],
)
def test_each_status_has_its_fate(status: int, fate: Fate) -> None:
    assert of_status(status).fate is fate


def test_the_reason_says_what_the_code_and_the_peer_say() -> None:
    assert of_status(0x0000).reason == ""
    assert of_status(0xB007).reason == "data set does not match SOP class (B007)"
    assert of_status(0xA700, "disk full").reason == "out of resources (A700): disk full"
    assert of_status(0xC211).reason == "cannot understand (C211)"


@pytest.mark.parametrize(
    ("rejection", "fate", "reason"),
    [
        ((1, 1, 7), Fate.POSTPONED_SLOWLY, "its AE title is not the one we call"),
        ((1, 1, 3), Fate.POSTPONED_SLOWLY, "our AE title is not recognised"),
        ((2, 3, 2), Fate.POSTPONED, "too many associations"),
        ((2, 3, 1), Fate.POSTPONED, "temporary congestion"),
        ((2, 1, 1), Fate.POSTPONED, "no reason given"),
    ],
)
def test_a_rejection_is_tried_again(
    rejection: tuple[int, int, int], fate: Fate, reason: str
) -> None:
    said = of_rejection(*rejection)
    assert said.fate is fate
    assert reason in said.reason
