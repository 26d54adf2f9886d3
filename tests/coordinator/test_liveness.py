"""When a stream is cut off, decided from values, and the service that does it, without waiting."""

from __future__ import annotations

import msgspec
import pytest

from engine.base.clock import ManualClock
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator.liveness import LivenessService, Pulse, overdue

SETTINGS = CoordinatorSettings(heartbeat_ms=1_000, lease_ms=4_000, register_ms=2_000, send_ms=8_000)
NOW_US = 100_000_000


def ago(ms: int) -> int:
    return NOW_US - ms * 1_000


@pytest.mark.parametrize(
    ("pulse", "reason"),
    [
        (Pulse(ago(2_000)), None),
        (Pulse(ago(2_001)), "no registration within 2000 ms"),
        (Pulse(ago(4_000), registered=True), None),
        (Pulse(ago(4_001), registered=True), "no heartbeat for 4001 ms"),
        (Pulse(ago(60_000), registered=True, held_up=True), None),
        (Pulse(ago(60_000), registered=False, held_up=True), None),
        (Pulse(ago(0), registered=True, sending_since_us=ago(8_000)), None),
        (Pulse(ago(0), registered=True, sending_since_us=ago(8_001)), "not read what was sent"),
        (Pulse(ago(0), registered=True, held_up=True, sending_since_us=ago(9_000)), "not read"),
    ],
)
def test_when_a_stream_is_overdue(pulse: Pulse, reason: str | None) -> None:
    decided = overdue(pulse, NOW_US, SETTINGS)
    assert (decided is None) if reason is None else (decided is not None and reason in decided)


class Stream:
    def __init__(self, clock: ManualClock) -> None:
        self.pulse = Pulse(clock.monotonic_us(), registered=True)
        self.cut_for = ""

    def cut(self, reason: str) -> None:
        assert not self.cut_for
        self.cut_for = reason


def look_on(clock: ManualClock, service: LivenessService, ms: int) -> list[object]:
    """Time goes on and the service looks as often as it does."""
    cut: list[object] = []
    for _ in range(ms // 250):
        clock.advance_us(250_000)
        cut += service.run_once()
    return cut


def test_the_silent_one_is_cut_off_and_the_other_is_not() -> None:
    clock = ManualClock()
    silent, lively = Stream(clock), Stream(clock)
    service = LivenessService(lambda: [silent, lively], clock, SETTINGS)
    assert look_on(clock, service, 4_000) == []
    lively.pulse.heard_us = clock.monotonic_us()
    assert look_on(clock, service, 250) == [silent]
    assert "no heartbeat for 4250 ms" in silent.cut_for


def test_a_jump_of_the_wall_clock_is_nothing() -> None:
    clock = ManualClock()
    stream = Stream(clock)
    service = LivenessService(lambda: [stream], clock, SETTINGS)
    clock.jump_wall_us(3_600_000_000)
    assert look_on(clock, service, 1_000) == []


def test_the_time_that_this_process_stood_still_is_given_back() -> None:
    clock = ManualClock()
    stream = Stream(clock)
    stream.pulse.sending_since_us = clock.monotonic_us()
    service = LivenessService(lambda: [stream], clock, SETTINGS)
    look_on(clock, service, 3_000)
    clock.advance_us(60_000_000)
    assert service.run_once() == []
    assert look_on(clock, service, 750) == []
    assert look_on(clock, service, 250) == [stream]


def test_standing_still_again_and_again_keeps_nobody_alive() -> None:
    clock = ManualClock()
    stream = Stream(clock)
    service = LivenessService(lambda: [stream], clock, SETTINGS)
    for _ in range(16):
        clock.advance_us(60_000_000)
        assert service.run_once() == []
    assert look_on(clock, service, 250) == [stream]


def test_a_lease_that_one_lost_heartbeat_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="at least twice `heartbeat_ms`, 2000"):
        CoordinatorSettings(heartbeat_ms=1_000, lease_ms=1_999)
    with pytest.raises(msgspec.ValidationError, match="twice"):
        msgspec.convert({"heartbeat_ms": 10_000}, CoordinatorSettings)
