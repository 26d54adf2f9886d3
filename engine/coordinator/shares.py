"""What each tenant has of the worker door: how many sessions, and how many frames a second.

All the workers of a tenant share it: who is over it is read again when it is made good, and its
peers wait with it, which those of other tenants do not. Knows no stream.
"""

from __future__ import annotations

import resource
import weakref
from typing import Final

from engine.base import limits
from engine.base.allowance import Allowance
from engine.base.errors import RateLimited
from engine.base.ids import TenantId


class Share:
    """One tenant's; there for as long as one of its sessions is."""

    def __init__(self, sessions_max: int, now_s: float) -> None:
        self._sessions_max: Final = sessions_max
        self.sessions = 0
        self.frames: Final = Allowance(
            limits.stream_tenant_frames_at_once_max, limits.stream_tenant_frames_per_s_max, now_s
        )

    def enter(self) -> None:
        if self.sessions >= self._sessions_max:
            raise RateLimited(
                f"{self.sessions} workers of this tenant are connected, which is the most that "
                "this engine has room for: give the workers more capacity instead of starting "
                "more of them, or let the engine open more files (`ulimit -n`)",
                sessions_max=self._sessions_max,
            )
        self.sessions += 1

    def registers(self, components: int, now_s: float) -> None:
        """That was work. Who does it again and again waits for it with its next frames."""
        cost = limits.stream_register_frames + limits.stream_component_frames * components
        self.frames.spend(cost, now_s)

    def leave(self) -> None:
        self.sessions -= 1


class Shares:
    def __init__(self) -> None:
        self._known: Final[weakref.WeakValueDictionary[TenantId, Share]] = (
            weakref.WeakValueDictionary()
        )
        self._sessions_max: Final = connections_max() // 2

    def of(self, tenant_id: TenantId, now_s: float) -> Share:
        share = self._known.get(tenant_id)
        if share is None:
            share = self._known[tenant_id] = Share(self._sessions_max, now_s)
        return share


def connections_max() -> int:
    """Of the files that this process may open, most are needed elsewhere."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return limits.stream_connections_max
    return min(limits.stream_connections_max, files // 4)
