"""The settings of the coordinator: how long a worker may be silent, slow or undecided.

Everything is in milliseconds. Knows no stream and no clock.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from engine.base import limits

_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]


class CoordinatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How workers are kept. With the defaults a worker may miss four heartbeats."""

    heartbeat_ms: _Milliseconds = 3_000
    lease_ms: _Milliseconds = limits.lease_ms  # a worker that was silent for longer loses its runs
    register_ms: _Milliseconds = 10_000  # from the opened stream to the accepted registration
    send_ms: _Milliseconds = 30_000  # one message on its way to a worker that reads nothing
    farewell_ms: _Milliseconds = 2_000  # at shutdown, for what is still to be sent

    def __post_init__(self) -> None:
        if self.lease_ms < 2 * self.heartbeat_ms:
            raise ValueError(
                f"`lease_ms` is {self.lease_ms}, which one lost heartbeat would use up: set at "
                f"least twice `heartbeat_ms`, {2 * self.heartbeat_ms}"
            )
