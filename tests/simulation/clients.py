"""Who asks the runtime for something: starts, signals, cancels, waits for outcomes, and does it
again when no answer comes, as a client over HTTP would.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from engine.base.errors import (
    EngineError,
    IdempotencyConflict,
    RunTerminal,
    UnknownRun,
    UnknownWait,
)
from engine.base.ids import ProjectId, RunId, TenantId, run_id_text
from engine.core.state import RunState, decode_state
from engine.journal.layout import OPEN_RUN_TAG
from engine.model.context import AuthMode, RequestContext
from engine.model.payloads import WaitKind
from engine.model.views import StartRequest
from engine.runtime.handle import Handle
from tests.simulation.invariants import Violation, require
from tests.simulation.programs import Program
from tests.simulation.runtime import Unreachable
from tests.simulation.workers import DEPLOYMENT

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
PROJECT = ProjectId("shop")


def context_of(tenant: TenantId) -> RequestContext:
    return RequestContext(tenant, PROJECT, AuthMode.LOOPBACK)


class Client:
    """Starts one run and has its way with it."""

    def __init__(self, world: World, tenant: TenantId, key: str, program: Program) -> None:
        self._world = world
        self._tenant = tenant
        self._context = context_of(tenant)
        self._key = key
        self._program = program
        self._chance = random.Random(f"{world.seed} {key}")

    async def run(self) -> None:
        chance = self._chance
        await trio.sleep(chance.uniform(0, 3))
        run = await self._start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait, run)
            if chance.random() < 0.3:
                nursery.start_soon(self._send_early, run)
            if chance.random() < 0.2:
                nursery.start_soon(self._cancel, run)
            if chance.random() < 0.2:
                nursery.start_soon(self._start_again, run)

    async def _start(self, program: Program | None = None) -> RunId:
        request = StartRequest(
            component="program_run",
            input=msgspec.json.encode(self._program if program is None else program),
            deployment_id=DEPLOYMENT,
            idempotency_key=self._key,
        )
        started = await self._until_answered(lambda handle: handle.start(self._context, request))
        self._world.trace(f"{self._key} is {self._world.name(started.run_id)}")
        self._world.ledger.start_answered(self._tenant, self._key, started.run_id)
        return started.run_id

    async def _start_again(self, run: RunId) -> None:
        await trio.sleep(self._chance.uniform(0, 10))
        require(await self._start() == run, "START_IDEMPOTENT", f"{self._key} started another run")
        try:
            await self._start([["step", 77]])
        except IdempotencyConflict:
            return
        raise Violation(f"START_IDEMPOTENT: {self._key} with another input was accepted")

    async def _wait(self, run: RunId) -> None:
        outcome = await self._until_answered(lambda handle: handle.wait_outcome(self._context, run))
        self._world.trace(f"{self._world.name(run)} ended {outcome.status.name}")
        self._world.ledger.ended(self._tenant, run, outcome.status, outcome.output)

    async def _send_early(self, run: RunId) -> None:
        """Signals, before anybody may wait for them, some of them twice."""
        for number in range(self._chance.randint(1, 3)):
            await trio.sleep(self._chance.uniform(0, 1))
            for _ in range(self._chance.randint(1, 2)):
                await send_signal(self._world, self._tenant, run, "go", f"early {number}")

    async def _cancel(self, run: RunId) -> None:
        await trio.sleep(self._chance.uniform(0, 10))
        self._world.trace(f"cancel {self._world.name(run)}")
        self._world.ledger.cancel_asked.add((self._tenant, run))
        try:
            await self._until_answered(
                lambda handle: handle.cancel(self._context, run, "so it is wanted")
            )
        except RunTerminal:
            return
        self._world.ledger.cancelled.add((self._tenant, run))

    async def _until_answered(self, call: Callable[[Handle], Awaitable[T]]) -> T:
        return await until_answered(self._world, call)


async def until_answered(world: World, call: Callable[[Handle], Awaitable[T]]) -> T:
    """Again and again, as long as no answer comes or the answer is one that passes."""
    while True:
        try:
            return await world.ask(call)
        except (RunTerminal, IdempotencyConflict, UnknownRun, UnknownWait):
            raise
        except (Unreachable, EngineError):
            await trio.sleep(0.4)


async def send_signal(
    world: World, tenant: TenantId, run: RunId, name: str, signal_id: str
) -> None:
    payload = msgspec.json.encode("told")
    context = context_of(tenant)
    try:
        await until_answered(
            world, lambda handle: handle.signal(context, run, name, payload, signal_id)
        )
    except RunTerminal:
        return
    world.trace(f"signal {signal_id} to {world.name(run)}")
    world.ledger.signals.append((tenant, run, signal_id))


class Feeder:
    """Gives every run what it waits for, as far as the disk says what that is; sends some of it
    twice, and asks the wrong tenant now and then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._given: set[tuple[RunId, str]] = set()

    async def run(self) -> None:
        while True:
            await trio.sleep(0.7)
            for tenant, files in list(self._world.disk.tenants.items()):
                for _, row in files.all_rows(OPEN_RUN_TAG):
                    await self._feed(tenant, decode_state(row))

    async def _feed(self, tenant: TenantId, state: RunState) -> None:
        run = RunId(state.run_id)
        for wait in list(state.waits.values()):
            if (run, wait.wait_id) in self._given:
                continue
            if wait.kind == WaitKind.SIGNAL:
                await self._signal(tenant, run, wait.name, wait.wait_id)
            elif wait.kind == WaitKind.USER:
                await self._answer(tenant, run, wait.wait_id)

    async def _signal(self, tenant: TenantId, run: RunId, name: str, wait_id: str) -> None:
        self._given.add((run, wait_id))
        if name == "maybe" and self._world.chance.random() < 0.6:
            return
        for _ in range(1 + (self._world.chance.random() < 0.2)):
            await send_signal(self._world, tenant, run, name, f"{run_id_text(run)} {wait_id}")
        if self._world.chance.random() < 0.1:
            await self._ask_the_wrong_tenant(tenant, run)

    async def _answer(self, tenant: TenantId, run: RunId, wait_id: str) -> None:
        context = context_of(tenant)
        try:
            await until_answered(
                self._world,
                lambda handle: handle.resolve_wait(context, run, wait_id, b'"told"'),
            )
        except UnknownWait:
            # The answer before was taken and only the word of it was lost; or it is open on the
            # disk and nowhere else, which the end of the run will show.
            self._world.trace(f"{self._world.name(run)} asks no more {wait_id}")
        except RunTerminal:
            return
        self._given.add((run, wait_id))

    async def _ask_the_wrong_tenant(self, tenant: TenantId, run: RunId) -> None:
        for other in self._world.tenants:
            if other == tenant:
                continue
            context = context_of(other)
            try:
                await until_answered(self._world, lambda handle: handle.get_run(context, run))  # noqa: B023
            except UnknownRun:
                continue
            raise Violation(f"TENANT_ISOLATION: {other} was shown a run of {tenant}")
