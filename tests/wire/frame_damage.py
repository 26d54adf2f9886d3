"""Damaged messages of the worker stream, the same ones for the same seed, put to the compiled scan.

Owns the damage: what an honest peer would send, then bytes changed, cut, doubled and moved. Run as
a program it is the child process that does this under the build with every check:

    python -m tests.wire.frame_damage SEED ROUNDS
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from engine.base.errors import MalformedRecord
from engine.ext import frames
from engine.model.payloads import RetryPolicy
from engine.model.worker_frames import Component, Draining, Refused, Register, Revoke
from engine.wire import worker
from tests.histories import history
from tests.twins import frames as twin

_SPECIAL = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff" * 9 + b"\x01", b"\x80" * 10, b"\x0a\x00")


def honest_frames(random: Random) -> tuple[list[bytes], list[bytes]]:
    """Frames of a worker and frames of the engine, about one made-up run."""
    run = random.randbytes(16)
    epoch, sequence = random.getrandbits(random.randint(0, 64)), random.getrandbits(20)
    records = history(random.getrandbits(20), length_max=8)
    new = [(int(record.kind), record.payload) for record in records]
    written = [(*pair, at, random.getrandbits(50)) for at, pair in enumerate(new)]
    components = (Component(name="checkout", retry=RetryPolicy(factor=2.0)), Component())
    return [
        frames.build_report(run, epoch, sequence, new),
        frames.build_emit(run, epoch, "output.delta", random.randbytes(random.randint(0, 40))),
        worker.encode(Register(components=components)),
        b"\x12\x07\x08" + b"\x80" * 5 + b"\x01",
    ], [
        frames.build_dispatch(run, epoch, 1, "checkout", 2, written, random.random() < 0.5),
        frames.build_ack(run, epoch, sequence),
        frames.build_deliver(run, epoch, written[-2:]),
        worker.encode(Revoke(run_id=run, lease_epoch=epoch)),
        worker.encode(Refused(code="unauthorized", fatal=True)),
        worker.encode(Draining()),
    ]


def damaged(random: Random, message: bytes) -> bytes:
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(message))
        until = min(len(message), at + random.choice((0, 1, 1, 2, 17)))
        kind = random.randrange(4)
        if kind == 0:
            part = random.choice((*_SPECIAL, random.randbytes(1), random.randbytes(3)))
            message = message[:at] + part + message[until:]
        elif kind == 1:
            message = message[:at]
        elif kind == 2:
            message = message[:until] + message[at:]  # a part twice
        else:
            message = message[:at] + message[until:] + message[at:until]
    return message


def damaged_messages(seed: int, rounds: int) -> Iterator[tuple[bytes, bool]]:
    """Each with whether it is a worker's."""
    random = Random(seed)
    for _ in range(rounds):
        of_worker = random.random() < 0.5
        sent = honest_frames(random)[not of_worker]
        message = frames.pack_frames(random.sample(sent, random.randint(1, len(sent))))
        yield damaged(random, message), of_worker


def outcome(scan: Callable[[bytes], list[Any]], message: bytes) -> list[Any] | None:
    try:
        return scan(message)
    except MalformedRecord:
        return None


def scan_damaged(seed: int, rounds: int) -> tuple[int, int]:
    """How many were read and how many refused; AssertionError where the twin sees it otherwise."""
    counts = [0, 0]
    for message, of_worker in damaged_messages(seed, rounds):
        name = "scan_worker_frames" if of_worker else "scan_engine_frames"
        found = outcome(getattr(frames, name), message)
        expected = outcome(getattr(twin, name), message)
        assert found == expected, f"{name}({message!r}): {found}, the twin: {expected}"
        counts[found is None] += 1
    return counts[0], counts[1]


if __name__ == "__main__":
    read, refused = scan_damaged(int(sys.argv[1]), int(sys.argv[2]))
    print(read, refused, frames.__file__)
