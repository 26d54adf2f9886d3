"""What the tests of workflows share: steps that note that they ran, and a worker with one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.sdk import (
    Component,
    function,
    workflow,
)
from tests.sdk.bench_host import BenchWorker
from tests.sdk.fake_engine import FakeEngine, FakeRun

ran: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@function
def double(x: int) -> int:
    ran.append(x)
    return 2 * x


@function
async def fail(message: str) -> None:
    ran.append(message)
    raise ValueError(message)


def of(
    body: Callable[..., Any], value: Any = None, *more: Component[..., Any]
) -> tuple[BenchWorker, FakeRun]:
    """A worker that serves this workflow, and a run of it, as far as it gets by itself."""
    component = body if isinstance(body, Component) else workflow(name="flow")(body)
    worker = BenchWorker(FakeEngine(), [component, double, fail, *more])
    return worker, worker.run(component, value)
