"""What several tests share: where the reference data lies, and hypothesis that repeats itself in CI."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of reference data; it is not part of the project, tests that need it skip without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PORTFOLIO_RESEARCH_TEST_DATA", beside)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}; set PORTFOLIO_RESEARCH_TEST_DATA to the folder that holds it")
    return folder
