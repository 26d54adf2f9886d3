"""With ENGINE_TEST_NO_SKIPS=1 a skipped test is a failed test.

A skip says "this machine cannot show it". That is a fair answer on a laptop and a hole in the
suite where the result is relied upon, so the continuous integration run sets the switch. A test
that is expected to fail is not a skip and stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

SWITCH = "ENGINE_TEST_NO_SKIPS"


def _failure(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr
    if isinstance(reason, tuple):
        path, line, text = reason
        reason = f"{text.removeprefix('Skipped: ')} ({path}:{line})"
    return f"skipped, which {SWITCH}=1 forbids: {report.nodeid}: {reason}"


def _forbidden(report: pytest.TestReport | pytest.CollectReport) -> bool:
    return report.skipped and not hasattr(report, "wasxfail") and os.environ.get(SWITCH) == "1"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _forbidden(report):
        report.longrepr = _failure(report)
        report.outcome = "failed"
        report.when = "call"  # a failure in set-up would be counted as an error
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if _forbidden(report):
        report.longrepr = _failure(report)
        report.outcome = "failed"
    return report
