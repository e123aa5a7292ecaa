"""What is read, what overrides it, and what an administrator is told."""

import json
from pathlib import Path

import pytest

from dicom_node import config
from dicom_node.config import Destination, DicomWeb, NodeConfig, Sender
from dicom_node.errors import ConfigError

GOOD = """\
node: {accept: any}
storage: {database: "sqlite:///var/vald.db", objects: var/objects}
destinations:
  pacs: {ae_title: ORTHANC, host: 127.0.0.1, port: 4242}
rules:
  - name: chest
    match: {Modality: [CR, DX]}
    results: [secondary_capture]
    destinations: [pacs]
"""


def load(folder: Path, text: str, **environ: str) -> NodeConfig:
    file = folder / "config.yaml"
    file.write_text(text)
    return config.load(file, environ)


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        load(folder, text, **environ)
    first, *lines = str(refusal.value).splitlines()
    assert first == f"{folder / 'config.yaml'} cannot be used:"
    return [line.strip() for line in lines]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    read = load(tmp_path, GOOD + "model: {path: models/mine}\n")
    assert read.storage.database == f"sqlite:///{tmp_path}/var/vald.db"
    assert read.storage.objects == f"{tmp_path}/var/objects"
    assert read.model.path == f"{tmp_path}/models/mine"


def test_absolute_paths_and_urls_stay(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        GOOD,
        VALD_STORAGE__DATABASE="sqlite:////var/lib/vald/vald.db",
        VALD_STORAGE__OBJECTS="s3://bucket/films",
    )
    assert read.storage.database == "sqlite:////var/lib/vald/vald.db"
    assert read.storage.objects == "s3://bucket/films"
    assert read.model.path == "embedded"


def test_postgresql_is_a_database(tmp_path: Path) -> None:
    url = "postgresql+psycopg://vald:secret@db/vald"
    assert load(tmp_path, GOOD, VALD_STORAGE__DATABASE=url).storage.database == url


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        GOOD,
        VALD_NODE__PORT="11113",
        VALD_NODE__TIMEOUTS__IDLE_S="30",
        VALD_DESTINATIONS__PACS__HOST="orthanc",
        VALD_DESTINATIONS__ARCHIVE="{ae_title: A, host: b, port: 104}",
        VALD_RULES__0__WAIVE="[synthetic]",
        VALD_RULES__0__MATCH__MODALITY="RG",
        VALD_CONFIG="/etc/vald/config.yaml",
        VALD_TESTS_MUST_RUN="1",
    )
    assert read.node.port == 11113
    assert read.node.timeouts.idle_s == 30
    assert read.destinations["pacs"].host == "orthanc"
    assert read.destinations["archive"].port == 104
    assert read.rules[0].waive == ("synthetic",)
    assert read.rules[0].match == {"Modality": ("RG",)}


def test_a_fault_of_the_environment_is_blamed_on_its_variable(tmp_path: Path) -> None:
    assert faults(tmp_path, GOOD, VALD_NODE__PORT="-1", VALD_NODE__PROT="1") == [
        "VALD_NODE__PORT: node.port: should be greater than or equal to 0 (it is '-1')",
        "VALD_NODE__PROT: node.prot: is no key here; did you mean port?",
    ]


def test_a_list_item_that_is_not_there_cannot_be_changed(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, GOOD, VALD_RULES__7__NAME="x")
    assert fault.startswith("VALD_RULES__7__NAME: ")


def test_yaml_does_not_guess_what_is_text(tmp_path: Path) -> None:
    text = changed(
        "{Modality: [CR, DX]}", "{SyntheticData: [NO, 1.10], Rows: 0x10, StudyDate: 2020-01-01}"
    )
    assert load(tmp_path, text).rules[0].match == {
        "SyntheticData": ("NO", "1.10"),
        "Rows": ("0x10",),
        "StudyDate": ("2020-01-01",),
    }


def test_any_sender_is_a_wildcard(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).node.accept == (Sender(ae_title="*", host="*"),)


def test_senders_are_listed(tmp_path: Path) -> None:
    text = changed("accept: any", "accept: [{ae_title: CR1, host: 10.0.0.0/24}, {ae_title: CR2}]")
    assert load(tmp_path, text).node.accept == (
        Sender(ae_title="CR1", host="10.0.0.0/24"),
        Sender(ae_title="CR2", host="*"),
    )


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
node:
  ae_title: THIS IS TOO LONG A TITLE
  port: 70000
  accept: []
storage: {database: mysql://secret@db, objects: x}
destinations:
  pacs: {ae_title: "A\\\\B", host: h}
rules:
  - name: a
    match: {Modalty: CR}
    results: [structured_raport]
    destinations: pasc
    waive: [latral]
  - name: a
    results: []
    destinations: [pacs]
"""
    told = faults(tmp_path, text)
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in told] == [
        "line 2 node.ae_title",
        "line 3 node.port",
        "line 4 node.accept",
        "line 5 storage.database",
        "line 7 destinations.pacs.ae_title",
        "line 7 destinations.pacs.port",
        "line 10 rules[0].match.Modalty",
        "line 11 rules[0].results[0]",
        "line 13 rules[0].waive[0]",
        "line 15 rules[1].results",
        "line 12 rules[0].destinations[0]",
        "line 14 rules[1].name",
    ]
    assert "is no DICOM keyword; did you mean Modality?" in told[6]
    assert "there is no destination pasc; add it below destinations; did you mean pacs?" in told[10]
    assert "secret" not in str(told)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("node: {accept: any}", "node: {}", "line 1: node.accept: is missing; add it"),
        ("node: {accept: any}", "nod: {}", "line 1: node: is missing; add it"),
        ("sqlite:///var/vald.db", "sqlite:///:memory:", "name a file"),
        ("objects: var/objects", 'objects: ""', "write at least one character"),
        ("ae_title: ORTHANC", 'ae_title: ""', "write 1 to 16 ASCII characters"),
        ("ae_title: ORTHANC", "ae_title: Ä", "write 1 to 16 ASCII characters"),
        ("ae_title: ORTHANC", 'ae_title: " A"', "no space at either end"),
        ("port: 4242", "port: 0", "should be greater than or equal to 1"),
        ("port: 4242", "port: 104, port: 4242", "destinations.pacs.port: stands twice"),
        ("host: 127.0.0.1", "host: [a]", "write one text, not a list or section"),
        ("name: chest", "name: ", "rules[0].name: is missing; add it"),
        ("rules:", "delivery: {retry: {max_delay_s: 1}}\nrules:", "not below first_delay_s"),
        ("rules:", "logging: {level: loud}\nrules:", "should be 'DEBUG', 'INFO'"),
        ("rules:", "work: {lease_s: 1}\nrules:", "greater than or equal to 30"),
        ("rules:", "work: {lease_s: .inf}\nrules:", "work.lease_s"),
        ("rules:", "model: {device: tpu}\nrules:", "model.device"),
        ("rules:", "work: 3\nrules:", "work: write keys and values below it"),
    ],
)
def test_a_fault_is_told_with_what_to_do(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert any(told in fault for fault in faults(tmp_path, changed(old, new)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node.timeouts.idle_s", "1e10"),
        ("node.timeouts.message_s", "1e7"),
        ("node.timeouts.stop_grace_s", "1e10"),
        ("node.limits.soft_free_mb", str(1 << 44)),
        ("node.limits.hard_queue", str(1 << 63)),
        ("node.max_associations", str(1 << 63)),
        ("work.workers", "1000000"),
        ("work.max_attempts", str(1 << 63)),
        ("work.lease_s", "1e12"),
        ("work.limit_s", "1e10"),
        ("work.decode_timeout_s", "1e10"),
        ("work.decode_memory_mb", str(1 << 44)),
        ("retention.received_days", "999999"),
        ("retention.results_days", "999999"),
        ("delivery.rest_after", str(1 << 63)),
        ("delivery.expire_after_s", "1e12"),
        ("delivery.timeouts.connect_s", "1e10"),
        ("delivery.timeouts.response_s", "1e10"),
        ("delivery.retry.max_delay_s", "1e12"),
        ("delivery.commitment.linger_s", "1e10"),
        ("delivery.commitment.report_within_s", "1e12"),
    ],
)
def test_a_number_that_the_node_cannot_work_with_is_told(
    tmp_path: Path, key: str, value: str
) -> None:
    environ = {f"VALD_{key.replace('.', '__').upper()}": value}
    (told,) = faults(tmp_path, GOOD, **environ)
    assert told.startswith(f"{next(iter(environ))}: ")
    assert "less than" in told


@pytest.mark.parametrize(
    "url",
    [
        "https://ours:s3/cret@pacs/dicom-web",
        "https://ours:1/s3cret@pacs/dicom-web",
        "https://ours:s3?cret@pacs/dicom-web",
        "https://ours:s3#cret@pacs/dicom-web",
        "https://pacs/dicom-web?token=s3cret",
        "https://pacs/dicom-web#s3cret",
        "https://pacs:port/dicom-web",
        "https://pacs:70000/dicom-web",
        "https://[::1/dicom-web",
        "https:///dicom-web",
        "ftp://ours:s3cret@pacs",
    ],
)
def test_a_url_that_has_more_than_a_place_is_told_without_it(tmp_path: Path, url: str) -> None:
    (told,) = faults(tmp_path, GOOD + f'dicomweb: {{cloud: {{url: "{url}"}}}}\n')
    assert "dicomweb.cloud.url: " in told
    assert "https" in told
    assert "cret" not in told


def test_how_to_write_an_at_sign_of_a_path_is_told_and_can_be_done(tmp_path: Path) -> None:
    text = GOOD + 'dicomweb: {cloud: {url: "https://pacs/%s/dicom-web"}}\n'
    (told,) = faults(tmp_path, text % "ward@site")
    assert "%40 for @ in the path" in told
    assert (
        load(tmp_path, text % "ward%40site").dicomweb["cloud"].url.endswith("ward%40site/dicom-web")
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ours:s3@cret@pacs:8042/dicom-web", "https://pacs:8042/dicom-web"),
        ("https://ours:s3%2Fcret@pacs/dicom-web/", "https://pacs/dicom-web/"),
        ("http://ours@[::1]:8042", "http://[::1]:8042"),
    ],
)
def test_a_url_is_shown_without_a_password(url: str, shown: str) -> None:
    assert DicomWeb(url=url).address == shown


_LONG = "x" * 256


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: chest", f"name: {_LONG}", "rules[0].name: "),
        ("name: chest", 'name: "a\\0b"', "rules[0].name: write printable characters"),
        ("name: chest", 'name: "a\\nb"', "rules[0].name: write printable characters"),
        ("[CR, DX]", '["a\\0b"]', "rules[0].match.Modality[0]: write printable characters"),
        ("pacs", _LONG, f"destinations.{_LONG}: "),
        ("[CR, DX]", '["a\\ud800b"]', "rules[0].match.Modality[0]: write printable characters"),
        ("[CR, DX]", '["a\\x9bb"]', "rules[0].match.Modality[0]: write printable characters"),
        ("pacs", '"a\\0b"', "destinations.a\0b: write printable characters"),
        ("pacs", '""', "destinations.: write at least one character"),
        ("rules:", f"dicomweb: {{{_LONG}: {{url: http://h}}}}\nrules:", f"dicomweb.{_LONG}: "),
    ],
)
def test_a_name_that_no_database_could_keep_is_told(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert any(told in fault for fault in faults(tmp_path, changed(old, new)))


@pytest.mark.parametrize("word", ["東京\u3000病院", "a\u00a0b", "a\u200cb", "a\tb"])
def test_any_space_and_joiner_may_stand_in_a_name_and_in_what_is_matched(
    tmp_path: Path, word: str
) -> None:
    text = changed("[CR, DX]", json.dumps([word])).replace("chest", json.dumps(word))
    (rule,) = load(tmp_path, text).rules
    assert (rule.name, rule.match["Modality"]) == (word, (word,))


def test_names_may_have_any_letters(tmp_path: Path) -> None:
    text = changed("pacs", "Röntgen Süd").replace("chest", "x" * 255)
    read = load(tmp_path, text)
    assert list(read.destinations) == ["Röntgen Süd"]
    assert read.rules[0].name == "x" * 255


def test_every_number_has_bounds() -> None:
    """Of the schema, by JSON Schema's own words."""
    schema = NodeConfig.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, values in section.get("properties", {}).items():
            for one in (values, *values.get("anyOf", ())):
                if one.get("type") in ("integer", "number"):
                    assert {"minimum", "exclusiveMinimum"} & one.keys(), key
                    assert {"maximum", "exclusiveMaximum"} & one.keys(), key


def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2: .*correct the YAML here"):
        load(tmp_path, "node: {\nstorage: ]")


@pytest.mark.parametrize("text", ["", "- a\n", "just text"])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; name the file with --config"):
        config.load(tmp_path / "none.yaml", {})


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    read = load(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        read.node.port = 1  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(
    ("keys", "asked", "must_answer"),
    [
        ({}, True, False),
        ({"commitment": "storage_commitment"}, True, False),
        ({"commitment": "query"}, True, True),
        ({"commitment": "query", "confirm_study": False}, False, False),
        ({"confirm_study": True}, True, True),
    ],
)
def test_a_study_is_asked_for_first_and_must_be_where_its_destination_is_known_to_answer(
    keys: dict[str, object], asked: bool, must_answer: bool
) -> None:
    place = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104, **keys}
    read = Destination.model_validate(place)
    assert (read.asks_for_study, read.must_answer_for_study) == (asked, must_answer)
