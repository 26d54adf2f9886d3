"""The workers of a scenario: one that reports what the scenario says, and one that runs the code of
the shop with the real SDK. Both tell what they hear and do, in a line each.

They know frames and the runtime's port. What a scenario looks like is in `runner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.base.clock import ManualClock
from engine.base.ids import RunId, TenantId
from engine.ext import frames
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component, Refused, Register, Revoke
from engine.runtime.handle import Handle
from engine.sdk import Context, function, workflow
from engine.sdk.authoring.registry import Registry
from engine.sdk.worker.session import Session
from engine.wire.worker import decode_engine_frame
from tests.runtime.worker import DEPLOYMENT, Held, ScriptedWorker
from tests.sdk.bench_host import ManualHost

Tell = Callable[[str], None]
NameOf = Callable[[bytes], str]


class ToldWorker(ScriptedWorker):
    """Reports what it is told to; keeps every lease that it ever had, to speak in its name."""

    def __init__(self, name: str, slots: int, tell: Tell, name_of: NameOf) -> None:
        super().__init__(name, capacity=slots)
        self.leases: dict[tuple[RunId, int], Held] = {}
        self._tell = tell
        self._name_of = name_of

    def _take(self, frame: tuple) -> None:  # type: ignore[type-arg]
        super()._take(frame)
        if frame[0] == "dispatch":
            held = self.held[RunId(frame[1])]
            self.leases[held.run, held.epoch] = held
        self._tell(f"{self.worker_id} {_heard(frame, self._name_of)}")

    def close(self, reason: str, *, code: str = "") -> None:
        self._tell(f"{self.worker_id} is sent away: {reason}")


def _heard(frame: tuple, name_of: NameOf) -> str:  # type: ignore[type-arg]
    if frame[0] == "dispatch":
        _, run, epoch, attempt, _, _, entries, _ = frame
        steps = sum(entry[0] == RecordKind.STEP_COMPLETED for entry in entries)
        done = f", {steps} {'step' if steps == 1 else 'steps'} done" if steps else ""
        return f"gets {name_of(run)}: lease {epoch}, attempt {attempt}{done}"
    if frame[0] == "ack":
        return f"hears that report {frame[3]} of {name_of(frame[1])} is durable"
    if frame[0] == "deliver":
        kinds = " and ".join(RecordKind(entry[0]).name for entry in frame[3])
        return f"hears of {name_of(frame[1])}: {kinds}"
    match decode_engine_frame(frame[1], frame[2]):
        case Revoke() as revoke:
            return f"has no right to {name_of(revoke.run_id)} with lease {revoke.lease_epoch}"
        case Refused() as refused:
            return f"is refused: {refused.code}"
        case other:
            return f"gets {type(other).__name__}"


# ---- the shop, with the real SDK ----


@function
def reserve() -> None: ...


@function
def charge() -> None: ...


@function
def ship() -> None: ...


@workflow
async def shop(ctx: Context) -> str:
    await ctx.step(reserve)
    await ctx.step(charge)
    await ctx.step(ship)
    return "shipped"


class ShopWorker:
    """Runs the shop; each step is done when the scenario says so, and then tells its name."""

    def __init__(self, name: str, clock: ManualClock, tell: Tell) -> None:
        self.worker_id = name
        self._clock = clock
        self._tell = tell
        self._registry = Registry([shop, reserve, charge, ship])
        self._sdk = Session(self._registry, clock, wake=lambda: None, host=self._make_host)
        self._came: list[bytes] = []
        self.session = None

    def _make_host(self, turn: Callable[[], None]) -> ManualHost:
        self._host = ManualHost(turn, self._clock)
        self._host.holds_jobs = True
        return self._host

    async def connect(self, handle: Handle, tenant: TenantId) -> None:
        register = Register(
            deployment_id=DEPLOYMENT,
            service_name="shop",
            worker_id=self.worker_id,
            capacity=10,
            components=(Component(name="shop", kind=ComponentKind.WORKFLOW),),
        )
        self.session = await handle.connect_worker(tenant, register, self)

    # ---- the port ----

    def send(self, frame: bytes) -> None:
        self._came.append(frame)

    def send_each(self, later: Iterator[bytes]) -> None:
        self._came.extend(later)

    def close(self, reason: str, *, code: str = "") -> None:
        self._tell(f"{self.worker_id} is sent away: {reason}")

    # ---- what it does ----

    def move(self) -> bool:
        """As far as it can without doing a step; False: not at all."""
        moved = False
        while self._came or self._host.step():
            moved = True
            came, self._came = self._came, []
            if came:
                self._sdk.receive(frames.pack_frames(came))
        while (message := self._sdk.take()) is not None:
            for _, run, epoch, sequence, entries in frames.scan_worker_frames(message):
                self.session.report(run, epoch, sequence, entries)
            moved = True
        return moved

    def do_next_step(self) -> None:
        job, _ = self._host.jobs[0]
        self._tell(f"{self.worker_id} does {job.function.__name__}")
        self._host.finish()
