"""What the whole suite shares: no silent skips, deterministic Hypothesis, the checked build."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests import checked_build
from tests.no_skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

# The same examples on every run, and no deadline, since a busy machine is not a defect. To look
# for new ones: pytest --hypothesis-profile=explore
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def checked_environment() -> dict[str, str]:
    """The environment of a child process that imports the extensions built with every check."""
    checked_build.build()
    return checked_build.environment()
