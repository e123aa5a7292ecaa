"""Where everything must run, nothing of the real part is left out without a word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SKIPPED_WHOLE = "import pytest\npytest.importorskip('no_such_library')\n"
_SKIPPED_TEST = """
import pytest
@pytest.mark.peer
def test_a_peer() -> None:
    pytest.skip('it is not installed')
"""
_ROOT = Path(__file__).resolve().parent.parent
_WITHOUT_PROJECT = ("-c", os.devnull, "-p", "no:cacheprovider", "-p", "tests.conftest")


def _outcome(module: str, folder: Path, must: str) -> str:
    (folder / "test_it.py").write_text(module)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_WITHOUT_PROJECT, "--rootdir", folder, folder],
        env={**os.environ, "VALD_TESTS_MUST_RUN": must, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("module", [_SKIPPED_WHOLE, _SKIPPED_TEST], ids=["module", "test"])
def test_a_skip_is_a_failure_where_all_must_run(module: str, tmp_path: Path) -> None:
    assert "skipped" in _outcome(module, tmp_path, must="")
    said = _outcome(module, tmp_path, must="1")
    assert ("failed" in said or "error" in said) and "skipped" not in said
