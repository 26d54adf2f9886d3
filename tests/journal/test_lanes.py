"""Which thread a commit is written on: the table, the estimate behind it, and that a disk which
becomes slow, or quick again, is noticed."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.lowlevel

from engine.base import limits
from engine.journal.lanes import InlineEstimate, Lane, LoopBudget, choose_lane
from tests.journal.harness import ForwardClock
from tests.journal.test_committer import Bench, benches

QUICK = limits.inline_commit_us_max
BUDGET = limits.inline_pass_us_max
SLOW = 10 * BUDGET


@pytest.mark.parametrize(
    ("expected_us", "budget_left_us", "queued_behind", "probe", "lane"),
    [
        pytest.param(0, BUDGET, 0, False, Lane.INLINE, id="nothing known yet"),
        pytest.param(QUICK, BUDGET, 0, False, Lane.INLINE, id="just quick enough"),
        pytest.param(QUICK + 1, BUDGET, 0, False, Lane.THREAD, id="just too slow"),
        pytest.param(300, 299, 0, False, Lane.THREAD, id="quick, the pass is used up"),
        pytest.param(300, 300, 0, False, Lane.INLINE, id="quick, the pass has just enough left"),
        pytest.param(300, BUDGET, 1, False, Lane.THREAD, id="quick, another batch could overlap"),
        pytest.param(QUICK + 1, BUDGET, 0, True, Lane.INLINE, id="too slow, but a try is due"),
        pytest.param(SLOW, BUDGET, 0, True, Lane.INLINE, id="far too slow, but a try is due"),
        pytest.param(SLOW, BUDGET, 1, True, Lane.THREAD, id="a try is due, a batch could overlap"),
        pytest.param(SLOW, -1, 0, True, Lane.THREAD, id="a try is due, the pass is used up"),
        pytest.param(SLOW, BUDGET, 0, False, Lane.THREAD, id="far too slow"),
    ],
)
def test_the_table(
    expected_us: float, budget_left_us: float, queued_behind: int, probe: bool, lane: Lane
) -> None:
    chosen = choose_lane(
        expected_us, budget_left_us=budget_left_us, queued_behind=queued_behind, probe=probe
    )
    assert chosen is lane


def test_an_estimate_begins_hopeful() -> None:
    assert InlineEstimate().expect_us(1) < 10


def test_an_estimate_is_a_fixed_part_and_one_per_record() -> None:
    estimate = InlineEstimate()
    for _ in range(9):
        estimate.observe(100, 500)
    assert estimate.expect_us(100) == 500
    assert estimate.expect_us(10) < estimate.expect_us(200)
    assert estimate.expect_us(0) == pytest.approx(500 - 100 * 1.5)


def test_one_hiccup_of_the_disk_changes_nothing() -> None:
    estimate = InlineEstimate()
    for _ in range(9):
        estimate.observe(1, 200)
    before = estimate.expect_us(1)
    estimate.observe(1, 50_000)
    assert estimate.expect_us(1) == before


def test_a_disk_that_has_become_slow_is_noticed_within_a_few_commits() -> None:
    estimate = InlineEstimate()
    for _ in range(9):
        estimate.observe(1, 200)
    for _ in range(5):
        estimate.observe(1, 20_000)
    assert estimate.expect_us(1) > limits.inline_commit_us_max


def commits_until_a_probe(estimate: InlineEstimate) -> int:
    count = 1
    while not estimate.is_probe_due():
        count += 1
    return count


def test_each_try_that_was_too_slow_doubles_the_distance_to_the_next() -> None:
    estimate = InlineEstimate()
    distances = []
    for _ in range(12):
        distances.append(commits_until_a_probe(estimate))
        estimate.observe(1, SLOW)
    assert distances[0] == 16
    pairs = itertools.pairwise(distances)
    assert all(later == min(2 * earlier, 4_096) for earlier, later in pairs)
    assert distances[-1] == 4_096
    estimate.observe(1, 100)
    assert commits_until_a_probe(estimate) == 16


def test_a_pass_of_the_loop_has_a_budget() -> None:
    budget = LoopBudget()
    budget.spend(400)
    budget.spend(400)
    assert budget.left_us == limits.inline_pass_us_max - 800
    budget.before_io_wait(0.0)
    assert budget.left_us == limits.inline_pass_us_max


async def commit(bench: Bench, count: int) -> int:
    """That many commits, one after the other; how many of them were inline."""
    before = bench.committer.statistics().inline
    for _ in range(count):
        await bench.append()
        await trio.lowlevel.checkpoint()  # a pass of the loop, so that its budget is whole
    return bench.committer.statistics().inline - before


@pytest.mark.parametrize("slow_us", [limits.inline_commit_us_max + 100, SLOW])
async def test_a_disk_that_becomes_slow_and_quick_again(slow_us: int) -> None:
    clock = ForwardClock()
    async with benches(1, clock=clock) as (bench,):
        assert await commit(bench, 10) == 10
        clock.step_us = slow_us
        assert await commit(bench, 100) < 15  # a few until it is noticed, and the tries
        clock.step_us = 0
        await commit(bench, 600)
        assert await commit(bench, 10) == 10
