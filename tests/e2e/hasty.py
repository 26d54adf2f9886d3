"""The same components in a worker that gives up a silent connection soon, so that the tests need
not wait for it as long as a user's worker does."""

from __future__ import annotations

from engine.sdk import limits
from tests.e2e.components import mark, nap, tally

__all__ = ["mark", "nap", "tally"]

limits.keepalive_s = 0.4  # type: ignore[misc]
limits.keepalive_timeout_s = 0.4  # type: ignore[misc]
limits.reconnect_ms_max = 200  # type: ignore[misc]
