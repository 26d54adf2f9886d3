"""The clocks: one that reads the machine's, one that is moved by hand."""

from __future__ import annotations

import time

from engine.base.clock import Clock, ManualClock, SystemClock


def test_the_system_clock_is_the_machines() -> None:
    clock: Clock = SystemClock()
    before = time.time_ns()
    now_us, now_ms = clock.now_us(), clock.now_ms()
    after = time.time_ns()
    assert before // 1_000 <= now_us <= after // 1_000
    assert before // 1_000_000 <= now_ms <= after // 1_000_000


def test_the_system_clock_has_a_time_that_does_not_jump() -> None:
    clock = SystemClock()
    read = [clock.monotonic_us() for _ in range(100)]
    assert read == sorted(read)


def test_a_manual_clock_stands_still() -> None:
    clock: Clock = ManualClock(now_us=1_500_000)
    assert [clock.now_us(), clock.now_us()] == [1_500_000, 1_500_000]
    assert clock.now_ms() == 1_500
    assert clock.monotonic_us() == 0


def test_a_manual_clock_is_moved() -> None:
    clock = ManualClock(now_us=1_000_000)
    clock.advance_us(2_500)
    assert (clock.now_us(), clock.now_ms(), clock.monotonic_us()) == (1_002_500, 1_002, 2_500)


def test_only_wall_time_jumps() -> None:
    clock = ManualClock(now_us=1_000_000)
    clock.advance_us(10)
    clock.jump_wall_us(-500_000)
    assert (clock.now_us(), clock.monotonic_us()) == (500_010, 10)
