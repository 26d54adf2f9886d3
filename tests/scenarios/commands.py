"""What a scenario can say, and what it does: one function for each sort of sentence.

Each returns what is to be told beside what the workers tell by themselves.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from typing import Final

from engine.base.errors import EngineError
from engine.base.ids import RunId, TenantId, child_run_id, run_id_text
from engine.core.apply import UNREAD_KINDS, apply
from engine.core.state import RunState, encode_state
from engine.core.transitions import IllegalTransition
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RunCompleted,
    RunFailed,
    StateChanged,
    StateScope,
    StepCompleted,
    WaitCreated,
    WaitKind,
)
from engine.model.views import RunFilter, StartRequest
from engine.wire.journal import decode
from tests.runtime.worker import DEPLOYMENT, Held
from tests.scenarios.workers import ShopWorker, ToldWorker
from tests.scenarios.world import TENANT, World

Answers = list[str]
Command = Callable[..., Awaitable[Answers]]

_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600}
_COMMANDS: Final[list[tuple[re.Pattern[str], Command]]] = []


def sentence(pattern: str) -> Callable[[Command], Command]:
    def note(command: Command) -> Command:
        _COMMANDS.append((re.compile(pattern), command))
        return command

    return note


async def perform(world: World, command: str) -> Answers:
    for pattern, function in _COMMANDS:
        matched = pattern.fullmatch(command)
        if matched is not None:
            try:
                return await function(world, **matched.groupdict())
            except (EngineError, IllegalTransition) as error:
                return [f"refused: {error.code}"]
    raise AssertionError(f"nobody knows what this means: {command!r}; see commands.py")


def duration_us(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()  # type: ignore[union-attr]
    return int(float(number) * _SECONDS[unit] * 1_000_000)


# ---- workers and the runtime ----


@sentence(
    r"worker (?P<name>\w+) serves (?P<component>\w+)(, (?P<slots>\d+) slots?)?"
    r"( for (?P<tenant>\w+))?"
)
async def serve(
    world: World, name: str, component: str, slots: str | None, tenant: str | None
) -> Answers:
    worker = ToldWorker(name, int(slots or 100), world.told.append, world.name_of)
    before = world.workers.get(name)
    if isinstance(before, ToldWorker):
        worker.leases = before.leases  # it may still speak of them
    world.workers[name] = worker
    await worker.connect(world.handle, TenantId(tenant or TENANT), component)
    return []


@sentence(r"worker (?P<name>\w+) runs the shop")
async def run_shop(world: World, name: str) -> Answers:
    worker = ShopWorker(name, world.clock, world.told.append)
    world.workers[name] = worker
    await worker.connect(world.handle, TenantId(TENANT))
    return []


@sentence(r"(?P<name>\w+) does its next step")
async def do_step(world: World, name: str) -> Answers:
    worker = world.workers[name]
    assert isinstance(worker, ShopWorker)
    worker.do_next_step()
    return []


@sentence(r"(?P<name>\w+) does its next step and vanishes before it can tell")
async def do_step_and_vanish(world: World, name: str) -> Answers:
    await do_step(world, name)
    return await vanish(world, name)


@sentence(r"(?P<name>\w+) vanishes")
async def vanish(world: World, name: str) -> Answers:
    session = world.workers[name].session
    assert session is not None
    session.disconnect()
    if isinstance(world.workers[name], ShopWorker):
        del world.workers[name]
    return []


@sentence(r"the runtime is killed and started again( (?P<time>\w+) later)?")
async def kill(world: World, time: str | None) -> Answers:
    await world.kill(0 if time is None else duration_us(time))
    return []


@sentence(r"(?P<time>\w+) pass(es)?")
async def wait(world: World, time: str) -> Answers:
    await world.time_passes(duration_us(time))
    return []


@sentence(r"the clock jumps (?P<time>\w+) (?P<where>forward|back)")
async def jump(world: World, time: str, where: str) -> Answers:
    by_us = duration_us(time)
    await world.time_passes(by_us if where == "forward" else -by_us, jump=True)
    return []


# ---- clients ----


@sentence(
    r"start (?P<run>\w+)( of (?P<component>\w+))?( with (?P<value>\S+))?"
    r"( under key (?P<key>\S+))?( for (?P<tenant>\w+))?"
)
async def start(
    world: World,
    run: str,
    component: str | None,
    value: str | None,
    key: str | None,
    tenant: str | None,
) -> Answers:
    request = StartRequest(
        component=component or "checkout",
        input=(value or "null").encode(),
        deployment_id=DEPLOYMENT,
        idempotency_key=key,
    )
    # A worker may tell of the run before its id has come back; a start takes the next name.
    started = await world.handle.start(world.context(tenant or TENANT), request)
    if not started.is_new:
        return [f"it is {world.name_of(started.run_id)}"]
    world.runs[run] = started.run_id
    world.tenants[run] = tenant or TENANT
    world.told[:] = [line.replace("a child", run) for line in world.told]
    return []


@sentence(
    r"signal (?P<run>\w+) (?P<name>\w+)( with (?P<value>\S+))?( as (?P<signal_id>\S+))?"
    r"( for (?P<tenant>\w+))?"
)
async def signal(
    world: World,
    run: str,
    name: str,
    value: str | None,
    signal_id: str | None,
    tenant: str | None,
) -> Answers:
    payload = (value or "null").encode()
    context = world.context_of(run, tenant)
    await world.handle.signal(context, world.runs[run], name, payload, signal_id)
    return []


@sentence(r"cancel (?P<run>\w+)( for (?P<tenant>\w+))?")
async def cancel(world: World, run: str, tenant: str | None) -> Answers:
    await world.handle.cancel(world.context_of(run, tenant), world.runs[run], "not wanted")
    return []


# ---- what a worker reports ----


@sentence(r"(?P<name>\w+) reports (?P<run>\w+)( with lease (?P<lease>\d+))?: (?P<what>.+)")
async def report(world: World, name: str, run: str, lease: str | None, what: str) -> Answers:
    held = world.lease_of(name, run, None if lease is None else int(lease))
    payloads = [_payload(world, held, each) for each in what.split(", ")]
    world.told_worker(name).report(held, *payloads)
    return []


@sentence(r"(?P<name>\w+) reports (?P<run>\w+) with (?P<other>\w+)'s lease: (?P<what>.+)")
async def report_as(world: World, name: str, run: str, other: str, what: str) -> Answers:
    lease = dataclasses.replace(world.lease_of(other, run, None))
    payloads = [_payload(world, lease, each) for each in what.split(", ")]
    world.told_worker(name).report(lease, *payloads)
    return []


@sentence(r"(?P<name>\w+) repeats its report (?P<number>\d+) of (?P<run>\w+): (?P<what>.+)")
async def repeat(world: World, name: str, number: str, run: str, what: str) -> Answers:
    held = world.lease_of(name, run, None)
    payloads = [_payload(world, held, each) for each in what.split(", ")]
    world.told_worker(name).report(held, *payloads, sequence=int(number))
    held.sequence -= 1  # a repetition is none of its reports
    return []


def _payload(world: World, held: Held, what: str) -> Payload:
    for pattern, make in _REPORTED:
        matched = re.fullmatch(pattern, what)
        if matched is not None:
            return make(world, held, *matched.groups())
    raise AssertionError(f"a worker cannot report {what!r}; see commands.py")


def _step(_: World, held: Held, position: str) -> Payload:
    return StepCompleted(position=int(position), name="step", output=b"1", lease_epoch=held.epoch)


def _signal_wait(_: World, held: Held, how: str, position: str, name: str) -> Payload:
    return WaitCreated(
        position=int(position),
        wait_id=position,
        kind=WaitKind.SIGNAL,
        name=name,
        parks=how == "parks",
        lease_epoch=held.epoch,
    )


def _timer_wait(world: World, held: Held, how: str, position: str, time: str) -> Payload:
    return WaitCreated(
        position=int(position),
        wait_id=position,
        kind=WaitKind.TIMER,
        due_ms=world.clock.now_ms() + duration_us(time) // 1_000,
        parks=how == "parks",
        lease_epoch=held.epoch,
    )


def _child(world: World, held: Held, name: str, position: str) -> Payload:
    child = child_run_id(held.run, int(position))
    world.runs[name], world.tenants[name] = child, TENANT
    return ChildStarted(
        position=int(position),
        child_run_id=child,
        component="checkout",
        mode=ChildMode.JOIN,
        input=b"null",
        lease_epoch=held.epoch,
    )


def _child_wait(_: World, held: Held, position: str) -> Payload:
    return WaitCreated(
        position=int(position),
        wait_id=position,
        kind=WaitKind.CHILD,
        parks=True,
        lease_epoch=held.epoch,
    )


def _state(_: World, held: Held, name: str, value: str, position: str) -> Payload:
    return StateChanged(
        position=int(position),
        scope=StateScope.RUN,
        name=name,
        value=value.encode(),
        revision=1,
        lease_epoch=held.epoch,
    )


def _completed(_: World, held: Held) -> Payload:
    return RunCompleted(output=b'"done"', lease_epoch=held.epoch)


def _failed(_: World, held: Held, for_good: str | None) -> Payload:
    error = Error(code="declined", message="no money", non_retryable=for_good is not None)
    return RunFailed(error=error, lease_epoch=held.epoch)


_REPORTED: Final[list[tuple[str, Callable[..., Payload]]]] = [
    (r"step (\d+)", _step),
    (r"(asks|parks) at (\d+) for signal (\w+)", _signal_wait),
    (r"(asks|parks) at (\d+) for (\d+\w+)", _timer_wait),
    (r"starts child (\w+) at (\d+)", _child),
    (r"parks at (\d+) for its child", _child_wait),
    (r"sets (\w+) to (\S+) at (\d+)", _state),
    (r"completed", _completed),
    (r"failed( for good)?", _failed),
]


# ---- looking ----


@sentence(r"show (?P<run>\w+)( for (?P<tenant>\w+))?")
async def show(world: World, run: str, tenant: str | None) -> Answers:
    view = await world.handle.get_run(world.context_of(run, tenant), world.runs[run])
    ended = f", {view.error_code}" if view.error_code else ""
    return [f"{run} is {view.status}, attempt {view.attempt}{ended}"]


@sentence(r"journal of (?P<run>\w+)( for (?P<tenant>\w+))?")
async def journal(world: World, run: str, tenant: str | None) -> Answers:
    context = world.context_of(run, tenant)
    entries = await world.handle.read_journal(context, world.runs[run], 0, 1_000)
    return [f"{entry.offset} {entry.kind.name}{_detail(entry)}" for entry in entries]


def _detail(entry: object) -> str:
    payload = decode(entry.kind, entry.payload)  # type: ignore[attr-defined]
    if getattr(payload, "signal_id", ""):
        return f" {payload.signal_id}"  # type: ignore[attr-defined]
    return f" {payload.position}" if getattr(payload, "position", 0) else ""


@sentence(r"events of (?P<run>\w+) after (?P<offset>\d+)")
async def events(world: World, run: str, offset: str) -> Answers:
    context = world.context_of(run)
    async with world.handle.events(context, world.runs[run], int(offset)) as found:
        return [f"{event.offset} {event.name}" async for event in found]


@sentence(r"why (?P<run>\w+)")
async def why(world: World, run: str) -> Answers:
    return [await world.handle.why(world.context_of(run), world.runs[run])]


@sentence(r"slots")
async def slots(world: World) -> Answers:
    return [
        f"{worker.worker_id}: {worker.capacity - worker.slots_free} of {worker.capacity} taken"
        + "".join(f", {world.name_of(lease.run_id)}" for lease in worker.leases)
        for tenant in world.engine.open_tenants()
        for worker in world.engine.pools.workers(tenant.tenant_id)
    ] or ["nobody is there"]


@sentence(r"list for (?P<tenant>\w+)")
async def list_for(world: World, tenant: str) -> Answers:
    page = await world.handle.list_runs(world.context(tenant), RunFilter(limit=100))
    ids = {run_id_text(run): name for name, run in world.runs.items()}
    return sorted(f"{ids[view.run_id]} {view.status}" for view in page.runs) or ["no runs"]


@sentence(r"rebuild (?P<run>\w+)")
async def rebuild(world: World, run: str) -> Answers:
    """The state that the journal alone gives, beside the one that is kept."""
    key = world.runs[run]
    entries = await world.handle.read_journal(world.context_of(run), key, 0, 1_000)
    state = RunState(run_id=key)
    for entry in entries:
        payload = None if entry.kind in UNREAD_KINDS else decode(entry.kind, entry.payload)
        apply(state, entry.kind, payload, entry.timestamp_us)
    kept = world.tenant(world.tenants[run]).find(RunId(key)).state
    same = encode_state(state) == encode_state(kept)
    return [f"{len(entries)} records give the state that is kept" if same else f"{state} != {kept}"]
