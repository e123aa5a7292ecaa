from pathlib import Path

import pytest

from dicom_node.results.provenance import ResultContext
from tests.results import sources


@pytest.fixture
def context(tmp_path: Path) -> ResultContext:
    return sources.context_of(sources.source(), tmp_path)
