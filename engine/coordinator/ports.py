"""What the coordinator asks of the runtime, and of whoever knows the tokens.

The other direction, `WorkerPort`, is with the runtime's pools. Everything but `connect_worker` is
synchronous: a stream calls it between two reads, on Trio's thread. A call that raises an
`EngineError` has changed nothing; the worker is told and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from engine.base.ids import TenantId
from engine.model.worker_frames import Register
from engine.runtime.pools import WorkerPort


class WorkerSession(Protocol):
    """One connected worker on the runtime's side."""

    @property
    def number(self) -> int:
        """Of the session, in this process; a later session has a higher one."""

    def report(
        self,
        run_id: bytes,
        lease_epoch: int,
        sequence: int,
        entries: Sequence[tuple[int, bytes]],
    ) -> None:
        """One transition of one run: kinds and payloads. `JournalBusy` means: not now, call again
        with the same; the stream stops reading meanwhile, which stops the worker."""

    def emit(self, run_id: bytes, lease_epoch: int, event: str, data: bytes) -> None: ...

    def heartbeat(self) -> None: ...

    def drain(self) -> None:
        """The worker finishes what it holds and gets nothing more."""

    def pause(self) -> None:
        """More was sent than the worker has read: no new runs until `resume`. Called from inside
        `WorkerPort.send`."""

    def resume(self) -> None: ...

    def disconnect(self) -> None:
        """The worker is gone. Called once, also for a session that a later one has fenced."""


class WorkerDoor(Protocol):
    """The part of the runtime's Handle that workers come through."""

    async def connect_worker(
        self, tenant_id: TenantId, register: Register, port: WorkerPort
    ) -> WorkerSession:
        """Trio-flavored. May send on the port before it returns."""


class Peer(NamedTuple):
    """Where a stream comes from."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# The tenant that a token speaks for, or `Unauthorized`. An empty token is asked about too.
Authenticate = Callable[[str, Peer], TenantId]
