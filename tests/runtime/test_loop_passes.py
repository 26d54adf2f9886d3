"""What the runtime says about how long its event loop is held."""

from __future__ import annotations

import time

import trio
import trio.lowlevel

from engine.base import limits
from engine.base.clock import ManualClock
from engine.runtime.passes import LoopPasses, measured_passes

WINDOW_US = limits.loop_passes_window_us


def passes_of(*lengths_us: int) -> tuple[LoopPasses, ManualClock]:
    clock = ManualClock()
    passes = LoopPasses(clock.monotonic_us)
    for length_us in lengths_us:
        one(passes, clock, length_us)
    return passes, clock


def one(passes: LoopPasses, clock: ManualClock, length_us: int) -> None:
    clock.advance_us(500)  # it waits, which is no part of a pass
    passes.after_io_wait(0)
    clock.advance_us(length_us)
    passes.before_io_wait(0)


def test_the_longest_one_is_told_and_the_ones_over_the_bound_are_counted() -> None:
    bound_us = limits.loop_pass_us_max
    passes, _ = passes_of(10, bound_us, bound_us + 1, 3 * bound_us, 20)
    assert passes.longest_us == 3 * bound_us
    assert (passes.passes_total, passes.long_total) == (5, 2)
    assert "engine_loop_pass_seconds_max 0.060000\n" in passes.text()
    assert "engine_loop_passes_total 5\n" in passes.text()
    assert "engine_loop_passes_long_total 2\n" in passes.text()


def test_a_long_pass_is_told_for_one_to_two_minutes() -> None:
    passes, clock = passes_of(7_000)
    clock.advance_us(WINDOW_US)
    one(passes, clock, 9)
    assert passes.longest_us == 7_000, "of the minute before"
    clock.advance_us(WINDOW_US)
    one(passes, clock, 5)
    assert passes.longest_us == 9


def test_nothing_is_told_of_a_loop_that_has_stood_still_for_long() -> None:
    passes, clock = passes_of(7_000)
    clock.advance_us(5 * WINDOW_US)
    assert passes.longest_us == 0
    passes, clock = passes_of(7_000)
    clock.advance_us(WINDOW_US)
    assert passes.longest_us == 7_000


async def test_a_task_that_blocks_shows_up_and_one_that_waits_does_not() -> None:
    block_s = 3 * limits.loop_pass_us_max / 1_000_000
    async with measured_passes() as passes:
        await trio.sleep(block_s)
        waited = passes.long_total
        time.sleep(block_s)  # noqa: ASYNC251 - this is what is to be seen
        await trio.lowlevel.checkpoint()
        assert passes.longest_us >= block_s * 1_000_000
        assert passes.long_total > waited
    counted = passes.passes_total
    await trio.lowlevel.checkpoint()
    assert passes.passes_total == counted, "not beyond the block"
