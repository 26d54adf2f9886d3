"""Which tenants are open, which sleep until when, and which cannot be opened.

A tenant that nobody needs is closed and sleeps: the system store says when its first timer is due.
That row is there only while the tenant is closed and everything of it is on the disk, so whatever
crashes, a tenant without the row is opened at the next start. One that cannot be opened is
reported and keeps nobody else from anything.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import trio

from engine.base import limits
from engine.base.clock import Clock
from engine.base.errors import (
    EngineError,
    JournalBusy,
    JournalClosed,
    StorageFull,
    TenantFailed,
    TenantLimitReached,
)
from engine.base.ids import TenantId
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import Journal
from engine.runtime.pools import WorkerPools
from engine.runtime.timers import Timers
from engine.runtime.writer.tenant import TenantRuntime

_log: Final = logging.getLogger(__name__)
# Of a tenant that sleeps until somebody asks for it.
_NEVER_MS: Final = 2**63 - 1
# These pass; they say nothing about the tenant.
_PASSING: Final = (TenantLimitReached, JournalBusy, JournalClosed, StorageFull)


class TenantFollower(Protocol):
    """Whoever does something of its own for every tenant that is open, such as the archive.

    While it pins the tenant's journal, the tenant is not put to sleep. Neither call may ask the
    engine for a tenant: the roster is locked meanwhile.
    """

    def tenant_opened(self, tenant: TenantRuntime) -> None: ...

    async def tenant_closing(self, tenant: TenantRuntime) -> int | None:
        """Nobody else uses the tenant any more; when this returns, it may be closed. When it is to
        be opened again for the follower's sake, in milliseconds."""


class _Refusal(NamedTuple):
    error: EngineError
    at_us: int


class Roster:
    def __init__(
        self,
        journal: Journal,
        *,
        pools: WorkerPools,
        timers: Timers,
        clock: Clock,
        lease_ms: int,
        followers: Sequence[TenantFollower],
    ) -> None:
        self.recovered_runs = 0
        self._journal = journal
        self._pools = pools
        self._timers = timers
        self._clock = clock
        self._lease_ms = lease_ms
        self._followers = followers
        self._open: dict[TenantId, TenantRuntime] = {}
        # On their way to sleep: nobody is given them any more, but what is due is still done.
        self._leaving: dict[TenantId, TenantRuntime] = {}
        # Being taken up: nobody is given them yet, and nothing is due for them.
        self._opening: dict[TenantId, TenantRuntime] = {}
        self._refused: dict[TenantId, _Refusal] = {}
        self._lock = trio.Lock()
        self._sleeps = trio.Event()

    # ---- looking ----

    def get(self, tenant: TenantId) -> TenantRuntime | None:
        """The tenant's runtime as long as it lives, for what concerns its runs."""
        return self._open.get(tenant) or self._leaving.get(tenant)

    def writing(self, tenant: TenantId) -> TenantRuntime | None:
        """Whose commits these are, also while its runs are being taken up."""
        return self.get(tenant) or self._opening.get(tenant)

    def open_tenants(self) -> list[TenantRuntime]:
        return list(self._open.values())

    def refused(self) -> dict[TenantId, EngineError]:
        """Tenants that do not work and why: they could not be opened, or have stopped."""
        found = {tenant: refusal.error for tenant, refusal in self._refused.items()}
        for tenant, runtime in self._open.items():
            if runtime.journal.committer.stopped_by is not None:
                found[tenant] = runtime.journal.committer.stopped_by
        return found

    # ---- opening ----

    async def tenant(self, tenant: TenantId) -> TenantRuntime:
        """The tenant's runtime, opened and recovered if it is not yet."""
        found = self._open.get(tenant)
        if found is None:
            async with self._lock:
                found = self._open.get(tenant) or await self._try_open(tenant)
        found.used_us = self._clock.monotonic_us()
        return found

    async def take_up_all(self) -> None:
        """At the start: every tenant but those that sleep until later."""
        for tenant in self._journal.tenant_ids():
            wake_ms = self._journal.system.wake_of(tenant)
            if wake_ms is None or wake_ms <= self._clock.now_ms():
                await self._open_by_itself(tenant)

    async def _open_by_itself(self, tenant: TenantId) -> bool:
        """Nobody asked for it, so nobody but the log is told what comes of it."""
        try:
            await self.tenant(tenant)
        except EngineError as error:
            _log.warning("tenant %s was not opened: %s", tenant, error.message)
            # Nothing of it was changed: it sleeps until it is tried again.
            due_ms = self._clock.now_ms() + limits.tenant_reopen_ms
            with contextlib.suppress(EngineError):
                self._journal.system.set_wake(tenant, due_ms)
            self._sleeps.set()
            return False
        return True

    async def _try_open(self, tenant: TenantId) -> TenantRuntime:
        refusal = self._refused.get(tenant)
        now_us = self._clock.monotonic_us()
        if refusal is not None and now_us - refusal.at_us < limits.tenant_retry_ms * 1_000:
            raise refusal.error.again()
        try:
            runtime = await self._take_up(tenant)
        except _PASSING:
            raise
        except EngineError as error:
            self._refused[tenant] = _Refusal(error, now_us)
            _log.error("tenant %s cannot be used: %s", tenant, error.message)
            raise
        self._refused.pop(tenant, None)
        return runtime

    async def _take_up(self, tenant: TenantId) -> TenantRuntime:
        journal = await self._pin(tenant)
        try:
            # From here on a crash finds no row, and the next start opens the tenant.
            if self._journal.system.wake_of(tenant) is not None:
                self._journal.system.set_wake(tenant, None)
            runtime = TenantRuntime(
                journal,
                pools=self._pools,
                timers=self._timers,
                clock=self._clock,
                lease_ms=self._lease_ms,
            )
            self._opening[tenant] = runtime
            await self._recover(runtime)
            journal.follower = runtime
            self._open[tenant] = runtime
            for follower in self._followers:
                follower.tenant_opened(runtime)
        except EngineError:
            await self._give_up(journal)
            raise
        except Exception as failure:
            _log.exception("tenant %s could not be taken up", tenant)
            await self._give_up(journal)
            raise TenantFailed.by(failure, "taking up the tenant") from failure
        finally:
            self._opening.pop(tenant, None)
        return runtime

    async def _recover(self, runtime: TenantRuntime) -> None:
        """A tenant of very many runs is not the others' wait."""
        begun_us = self._clock.monotonic_us()
        for _ in runtime.recover():
            self.recovered_runs += 1
            now_us = self._clock.monotonic_us()
            if now_us > begun_us + limits.loop_slice_us:
                await trio.lowlevel.cancel_shielded_checkpoint()
                begun_us = self._clock.monotonic_us()

    async def _give_up(self, journal: TenantJournal) -> None:
        """What could not be taken up is closed, whatever was begun: the next try begins anew."""
        self._open.pop(journal.tenant_id, None)
        self._timers.forget(journal.tenant_id)
        journal.follower = None
        self._journal.unpin(journal)
        with trio.CancelScope(shield=True):
            try:
                await self._journal.close_tenant(journal)
            except EngineError as error:
                _log.error("tenant %s did not close cleanly: %s", journal.tenant_id, error.message)

    async def _pin(self, tenant: TenantId) -> TenantJournal:
        """Where no store more may be open, the tenant that was used longest ago makes room."""
        while True:
            try:
                return await self._journal.pin(tenant)
            except TenantLimitReached:
                may_rest = [each for each in self._open.values() if each.may_rest(with_queue=True)]
                may_rest.sort(key=lambda each: each.used_us)
                if not may_rest or not await self._put_to_sleep(may_rest[0], with_queue=True):
                    raise

    # ---- putting to sleep, and waking ----

    async def close_idle(self) -> int:
        """Put to sleep what nobody has used for a while; how many tenants."""
        idle_us = self._journal.settings.tenant_idle_close_s * 1_000_000
        closed = 0
        for runtime in self.open_tenants():
            async with self._lock:
                is_idle = runtime.used_us <= self._clock.monotonic_us() - idle_us
                if is_idle and runtime.may_rest(with_queue=False):
                    closed += await self._put_to_sleep(runtime, with_queue=False)
        return closed

    async def _put_to_sleep(self, runtime: TenantRuntime, *, with_queue: bool) -> bool:
        """With the lock held. False if somebody needs the tenant after all."""
        tenant = runtime.tenant_id
        if self._open.get(tenant) is not runtime:
            return False
        # Out of the table first: who asks from now on waits for the lock and opens it anew.
        self._leaving[tenant] = self._open.pop(tenant)
        with trio.CancelScope(shield=True):
            due_ms = await self._leave(runtime)
            await runtime.journal.committer.sync()
            # No timer can fire from here on until it is noted, and forgotten here.
            del self._leaving[tenant]
            if not self._note_wake(runtime, due_ms, with_queue=with_queue):
                self._open[tenant] = runtime
                for follower in self._followers:
                    follower.tenant_opened(runtime)
                return False
            self._let_go(runtime)
            try:
                await self._journal.close_tenant(runtime.journal)
            except EngineError as error:
                _log.error("tenant %s did not close cleanly: %s", tenant, error.message)
        self._sleeps.set()
        return True

    async def _leave(self, runtime: TenantRuntime) -> int:
        """Every follower is told; when the first of them needs the tenant again."""
        due = [await follower.tenant_closing(runtime) for follower in self._followers]
        return min((due_ms for due_ms in due if due_ms is not None), default=_NEVER_MS)

    def _note_wake(
        self, runtime: TenantRuntime, followers_due_ms: int, *, with_queue: bool
    ) -> bool:
        """Everything of the tenant is on the disk: say when it is needed next."""
        if not runtime.may_rest(with_queue=with_queue):
            return False
        timers_due_ms = self._timers.next_of(runtime.tenant_id)
        due_ms = min(_NEVER_MS if timers_due_ms is None else timers_due_ms, followers_due_ms)
        try:
            self._journal.system.set_wake(runtime.tenant_id, due_ms)
        except EngineError as error:
            _log.error("tenant %s stays open: %s", runtime.tenant_id, error.message)
            return False
        return True

    def _let_go(self, runtime: TenantRuntime) -> None:
        self._timers.forget(runtime.tenant_id)
        runtime.journal.follower = None
        self._journal.unpin(runtime.journal)

    async def wake_due(self) -> bool:
        """Open the tenants whose first timer is due; False if there is one that cannot be."""
        opened = [
            await self._open_by_itself(tenant)
            for _, tenant in list(self._journal.system.due_tenants(self._clock.now_ms()))
        ]
        return all(opened)

    # ---- services ----

    async def run_idle(self) -> None:
        while True:
            await trio.sleep(self._journal.settings.tenant_idle_close_s / 4)
            await self.close_idle()

    async def run_wakes(self) -> None:
        while True:
            self._sleeps = trio.Event()
            is_done = await self.wake_due()
            next_ms = self._journal.system.next_wake_ms()
            if next_ms is None or next_ms == _NEVER_MS:
                await self._sleeps.wait()
                continue
            wait_ms = max(next_ms - self._clock.now_ms(), 0) if is_done else _NEVER_MS
            with trio.move_on_after(min(wait_ms, limits.timer_look_ms_max) / 1_000):
                await self._sleeps.wait()

    # ---- ending ----

    async def aclose(self) -> None:
        """A tenant that needs nothing sleeps from now on, also across the next start."""
        with trio.CancelScope(shield=True):
            for runtime in self.open_tenants():
                due_ms = await self._leave(runtime)
                await runtime.journal.committer.sync()
                self._note_wake(runtime, due_ms, with_queue=False)
                del self._open[runtime.tenant_id]
                self._let_go(runtime)
                runtime.waiters.fail(JournalClosed("the engine is being closed"))
