"""Results by name and by profile, of rules and of destinations, and their series."""

from pathlib import Path

import pytest

from dicom_node import config
from dicom_node.config import NodeConfig
from dicom_node.errors import ConfigError

_TEXT = """
node: {{accept: any}}
storage: {{database: sqlite:///v.db, objects: o}}
destinations:
  pacs: {{ae_title: P, host: h, port: 104{destination}}}
rules:
  - {{name: r, results: {results}, destinations: pacs}}
{more}
"""


def load(folder: Path, results: str = "basic", destination: str = "", more: str = "") -> NodeConfig:
    path = folder / "config.yaml"
    path.write_text(_TEXT.format(results=results, destination=destination, more=more))
    return config.load(path, {})


BASIC = ("secondary_capture", "structured_report")
VIEWER = (*BASIC, "presentation_state", "segmentation_regions", "segmentation_map")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("basic", BASIC),
        ("viewer", VIEWER),
        ("research", config.RESULTS),
        ("[basic, not_analysed]", (*BASIC, "not_analysed")),
        ("[structured_report, secondary_capture]", BASIC),
        ("[viewer, structured_report]", VIEWER),
    ],
)
def test_a_profile_stands_for_its_results_in_their_order(
    tmp_path: Path, written: str, meant: tuple[str, ...]
) -> None:
    assert load(tmp_path, results=written).rules[0].results == meant


def test_a_destination_may_have_results_of_its_own(tmp_path: Path) -> None:
    assert load(tmp_path).destinations["pacs"].results is None
    own = load(tmp_path, destination=", results: viewer")
    assert own.destinations["pacs"].results == VIEWER


def test_a_profile_that_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rules\[0\].results\[1\]"):
        load(tmp_path, results="[basic, viwer]")


def test_series_have_the_site_s_numbers_and_words_and_the_others_their_own(tmp_path: Path) -> None:
    more = "series: {numbers: {structured_report: 77}, description: 'AI {object}'}"
    series = load(tmp_path, more=more).series
    assert (series.numbers["structured_report"], series.numbers["secondary_capture"]) == (77, 9001)
    assert series.description == "AI {object}"


@pytest.mark.parametrize(
    "series",
    [
        "{numbers: {holiday: 1}}",
        "{numbers: {structured_report: 0}}",
        "{description: '{x}'}",
        "{description: '{object'}",
        "{description: '{}'}",
        "{description: '{object[a]}'}",
        "{description: '{object.real}'}",
        "{description: '{object:{model}}'}",
        "{description: '{object!r}'}",
    ],
)
def test_series_that_cannot_be_are_refused(tmp_path: Path, series: str) -> None:
    with pytest.raises(ConfigError, match="series"):
        load(tmp_path, more=f"series: {series}")
