"""A made-up run whose files are changed."""

from __future__ import annotations

import pytest
from synthetic import Made, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_run(tmp_path_factory.mktemp("run"))
