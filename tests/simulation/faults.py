"""What befalls a world: each fault is a function of the world; the seed says which of them, when
and how often. To add one, write the function and put it into `FAULTS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from tests.simulation.world import World


def kill_runtime(world: World) -> None:
    world.kill_runtime()


def kill_runtime_in_a_commit(world: World) -> None:
    world.trace("the runtime will be killed in its next commit")
    world.disk.at_next_write = world.kill_runtime


def stop_runtime(world: World) -> None:
    world.stop_runtime()


def kill_worker(world: World) -> None:
    world.chance.choice(world.workers).crash()


def stall_worker(world: World) -> None:
    """Some of them beyond the lease."""
    worker = world.chance.choice(world.workers)
    worker.stall(world.chance.choice((0.3, 2, 3.5, 8)))


def drain_worker(world: World) -> None:
    world.chance.choice(world.workers).drain()


def connect_twice(world: World) -> None:
    world.chance.choice(world.workers).connect_twice()


def lose_stream(world: World) -> None:
    """Half open: one side goes on sending, or both do, and nothing arrives."""
    if world.links:
        link = world.chance.choice(world.links)
        link.loses_to_worker = world.chance.random() < 0.6
        link.loses_to_engine = not link.loses_to_worker or world.chance.random() < 0.5
        world.trace(f"{link.worker_id}'s stream is half open")
        link.notice_by_keepalive()


def break_stream(world: World) -> None:
    if world.links:
        world.chance.choice(world.links).end_here("the network broke")


def make_noise(world: World) -> None:
    """Frames twice, in another order, late; answers to clients lost."""
    world.trace("the network is bad")
    world.noise, world.loss_share = True, 0.3
    world.after(world.chance.uniform(1, 8), functools.partial(_end_noise, world))


def _end_noise(world: World) -> None:
    world.noise, world.loss_share = False, 0.0


def fill_disk(world: World) -> None:
    world.trace("the disk is full")
    world.disk.is_full = True
    world.after(world.chance.uniform(0.1, 4), functools.partial(_make_room, world))


def _make_room(world: World) -> None:
    world.trace("there is room on the disk again")
    world.disk.is_full = False


def break_disk(world: World) -> None:
    """A write fails for good: the tenant stops, and somebody restarts the runtime."""
    world.trace("a write will fail for good")
    world.disk.breaks_next = True


def slow_disk(world: World) -> None:
    world.disk.stall_share = world.chance.choice((0.3, 1.0))
    world.disk.slow_s = world.chance.choice((0.01, 0.2, 1.0))
    world.trace(f"the disk is slow: {world.disk.slow_s} s")


def jump_forwards(world: World) -> None:
    _jump(world, world.chance.choice((1, 30, 3_600)))


def jump_backwards(world: World) -> None:
    _jump(world, -world.chance.choice((1, 10, 60)))


def _jump(world: World, by_s: int) -> None:
    world.trace(f"the clock jumps by {by_s} s")
    world.clock.jump(by_s * 1_000_000)


FAULTS: Final[tuple[Callable[[World], None], ...]] = (
    kill_runtime,
    kill_runtime,
    kill_runtime_in_a_commit,
    stop_runtime,
    kill_worker,
    stall_worker,
    drain_worker,
    connect_twice,
    lose_stream,
    break_stream,
    make_noise,
    make_noise,
    fill_disk,
    break_disk,
    slow_disk,
    slow_disk,
    jump_forwards,
    jump_backwards,
)
# A run that is handed out so often without getting anywhere fails, by design; fewer faults than
# that bring nobody there.
_FAULTS_MAX: Final = 4


async def befall(world: World) -> None:
    """A few faults of a few sorts, then none."""
    chance = world.chance
    chosen = chance.sample(FAULTS, chance.randint(1, 6))
    for _ in range(chance.randint(0, _FAULTS_MAX)):
        await trio.sleep(chance.choice((0.05, 0.5, 1, 3)) * chance.uniform(0.5, 1.5))
        chance.choice(chosen)(world)
    await trio.sleep(chance.uniform(0, 4))
    world.heal()
    world.nursery.start_soon(_attend, world)


async def _attend(world: World) -> None:
    """Somebody who restarts a runtime that says it cannot go on."""
    while True:
        await trio.sleep(1)
        process = world.process
        if process is not None and process.is_up:
            assert process.journal is not None
            await process.journal.resume()
            if process.is_up and process.engine.refused_tenants():
                world.stop_runtime()
