"""A seed's world: who is in it, what befalls them, and the check at the end.

Everything that is left to chance comes from the seed, in the order of virtual time, so a seed is a
trace. `simulate` runs one.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import trio
import trio.testing

from engine.base.ids import RunId, TenantId
from engine.journal.layout import OPEN_RUN_TAG
from engine.runtime.handle import Handle
from tests.simulation import faults
from tests.simulation.clients import Client, Feeder
from tests.simulation.disk import Disk
from tests.simulation.invariants import (
    Ledger,
    check_at_the_end,
    check_engine,
    check_rebuild,
    require,
)
from tests.simulation.network import Link
from tests.simulation.programs import random_program
from tests.simulation.runtime import Process, Unreachable
from tests.simulation.time import Agenda, SimulatedClock, deterministic_scheduling
from tests.simulation.workers import SimulatedWorker

T = TypeVar("T")

TRACE_LINES_KEPT: Final = 50
# After the last fault, in virtual time: more than any program can need.
PATIENCE_S: Final = 120.0


class SimulationFailed(AssertionError):
    """A seed broke a rule. The text has all that is needed to look into it."""


class World:
    lease_ms = 3_000
    heartbeat_ms = 1_000

    def __init__(self, seed: int, *, echo: Callable[[str], object] | None = None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.virtual = trio.testing.MockClock(autojump_threshold=0)
        self.clock = SimulatedClock(self.virtual)
        self.disk = Disk(self.chance)
        self.ledger = Ledger(self.disk)
        self.tenants = [TenantId("acme"), TenantId("other")][: 1 + (self.chance.random() < 0.2)]
        self.process: Process | None = None
        self.links: list[Link] = []
        self.workers: list[SimulatedWorker] = []
        self.lines: deque[str] = deque(maxlen=TRACE_LINES_KEPT)
        # What of the network is bad at the moment.
        self.noise = False
        self.loss_share = 0.0
        self._echo = echo
        self._digest = hashlib.blake2b(digest_size=16)
        self._names: dict[RunId, str] = {}
        self._ids_made = 0
        self._clients_left = 0
        self._healed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._agenda: Agenda | None = None

    # ---- running ----

    async def main(self) -> None:
        self._agenda = Agenda()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.boot()
            self._populate()
            nursery.start_soon(self._agenda.run, self._check)
            nursery.start_soon(faults.befall, self)
            nursery.start_soon(Feeder(self).run)
            await self._until_done()
            process = self.process
            assert process is not None
            process.stop()
            await process.ended.wait()
            nursery.cancel_scope.cancel()
        check_at_the_end(self.disk, self.ledger)

    def _populate(self) -> None:
        for tenant in self.tenants:
            for number in range(self.chance.randint(1, 3)):
                worker = SimulatedWorker(
                    self, tenant, f"{tenant}-w{number}", capacity=self.chance.choice([1, 2, 10])
                )
                self.workers.append(worker)
                self.after(self.chance.uniform(0, 1), worker.start)
            for number in range(self.chance.choice((1, 1, 2))):
                client = Client(self, tenant, f"{tenant}-{number}", random_program(self.chance))
                self._clients_left += 1
                self.nursery.start_soon(self._run_client, client)

    async def _run_client(self, client: Client) -> None:
        await client.run()
        self._clients_left -= 1

    async def _until_done(self) -> None:
        await self._healed.wait()
        # What was due at a wall time comes so much later.
        deadline = trio.current_time() + PATIENCE_S + self.clock.set_back_us / 1_000_000
        while self._clients_left or self._is_any_run_open():
            require(
                trio.current_time() < deadline,
                "EVENTUAL_PROGRESS",
                f"{self._clients_left} clients wait, open: {self._open_runs()}",
            )
            await trio.sleep(0.5)

    def _is_any_run_open(self) -> bool:
        return any(files.all_rows(OPEN_RUN_TAG) for files in self.disk.tenants.values())

    def _open_runs(self) -> list[str]:
        return [
            self.name(RunId(key[1:]))
            for files in self.disk.tenants.values()
            for key, _ in files.all_rows(OPEN_RUN_TAG)
        ]

    def _check(self) -> None:
        process = self.process
        if process is not None and process.is_up:
            check_engine(process.engine)

    # ---- the runtime's processes ----

    def boot(self) -> None:
        if self.process is not None and not self.process.is_dead:
            return  # it was killed while it was stopping, and has been started since
        self.process = Process(self)
        self.nursery.start_soon(self.process.run)

    def kill_runtime(self) -> None:
        process = self.process
        if process is None or process.is_dead:
            return
        self.trace("the runtime is killed")
        process.kill()
        self.disk.lose_unsynced()
        if self.chance.random() < 0.3:
            for tenant, files in self.disk.tenants.items():
                check_rebuild(tenant, files)
        self.after(self.chance.uniform(0.1, 3), self.boot)

    def stop_runtime(self) -> None:
        process = self.process
        if process is None or not process.is_up:
            return
        self.trace("the runtime is asked to stop")
        process.stop()
        self.after(0.1, functools.partial(self._boot_when_gone, process))

    def _boot_when_gone(self, process: Process) -> None:
        if not process.is_dead:
            self.after(0.1, functools.partial(self._boot_when_gone, process))
        elif self.process is process:
            self.boot()

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        self.trace("everything is healed")
        self.noise, self.loss_share = False, 0.0
        self.disk.heal()
        self._healed.set()

    # ---- for everybody in it ----

    @property
    def now(self) -> float:
        return trio.current_time()

    @property
    def nursery(self) -> trio.Nursery:
        assert self._nursery is not None
        return self._nursery

    def after(self, delay_s: float, call: Callable[[], object]) -> None:
        assert self._agenda is not None
        self._agenda.after(delay_s, call)

    def latency(self) -> float:
        return self.chance.choice((0.0, 0.001, 0.001, 0.005, 0.05 if self.noise else 0.001))

    def step_time(self) -> float:
        return self.chance.choice((0.0, 0.001, 0.01, 0.3))

    def loses_answer(self) -> bool:
        return self.loss_share > 0 and self.chance.random() < self.loss_share

    def disturbed(self, batch: list[T], run_of: Callable[[T], bytes] | None) -> list[T]:
        """Some frames twice, some before others; towards the worker each run's stay in order."""
        if not self.noise:
            return batch
        if self.chance.random() < 0.3:
            again = self.chance.choice(batch)
            batch = [*batch, again]
            self.trace("a frame comes twice")
        if len(batch) > 1 and self.chance.random() < 0.3:
            batch = _shuffled(batch, run_of, self.chance)
        return batch

    async def ask(self, call: Callable[[Handle], Awaitable[T]]) -> T:
        process = self.process
        if process is None:
            raise Unreachable
        return await process.ask(call)

    def new_run_id(self) -> RunId:
        """As real ones: in the order in which they were made."""
        self._ids_made += 1
        head = (self.clock.now_ms() << 16 | 0x7000 | self._ids_made & 0xFFF) << 64
        return RunId((head | 0x8000_0000_0000_0000 | self._ids_made).to_bytes(16, "big"))

    def name(self, run: RunId) -> str:
        return self._names.setdefault(run, f"run{len(self._names) + 1}")

    # ---- the trace ----

    def trace(self, line: str) -> None:
        text = f"{trio.current_time():9.3f} {line}"
        self._digest.update(text.encode())
        self.lines.append(text)
        if self._echo is not None:
            self._echo(text)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _shuffled(
    batch: list[T], run_of: Callable[[T], bytes] | None, chance: random.Random
) -> list[T]:
    shuffled = list(batch)
    chance.shuffle(shuffled)
    if run_of is None:
        return [*_colds(batch), *(frame for frame in shuffled if not _is_cold(frame))]
    in_order: dict[bytes, list[T]] = {}
    for frame in batch:
        in_order.setdefault(run_of(frame), []).append(frame)
    return [in_order[run_of(frame)].pop(0) for frame in shuffled]


def _colds(batch: list[Any]) -> list[Any]:
    return [frame for frame in batch if _is_cold(frame)]


def _is_cold(frame: Any) -> bool:
    return bool(frame[0] == "cold")


def simulate(seed: int, *, echo: Callable[[str], object] | None = None) -> str:
    """Run a seed; the digest of its trace. `SimulationFailed` if a rule did not hold."""
    world = World(seed, echo=echo)
    try:
        with deterministic_scheduling(seed):
            trio.run(world.main, clock=world.virtual)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise SimulationFailed(_explained(world, error)) from error
    return world.digest


def _explained(world: World, error: BaseException) -> str:
    causes = ", ".join(f"{type(cause).__name__}: {cause}" for cause in _leaves(error))
    lines = "\n".join(world.lines)
    return (
        f"seed {world.seed}: {causes}\n\n{lines}\n\n"
        f"again: python -m tests.simulation --seed {world.seed}"
    )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
