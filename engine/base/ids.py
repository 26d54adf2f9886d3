"""Identifiers: which strings and bytes may name a tenant, a project, a deployment or a run.

A tenant id becomes a directory name, so this file is also the guard against path tricks: the
alphabet has no dot, slash, NUL or letter outside ASCII. Ids are checked once, at the border where
they are made; code below takes the checked types and never checks again.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import threading
from collections.abc import Iterator
from typing import Final, NewType

from engine.base.clock import Clock, system_clock
from engine.base.errors import InvalidName
from engine.base.limits import name_length_max

TenantId = NewType("TenantId", str)
ProjectId = NewType("ProjectId", str)
DeploymentId = NewType("DeploymentId", str)
RunId = NewType("RunId", bytes)  # 16 bytes; `run_id_text` is the form users see

RUN_ID_BYTES: Final = 16

# \Z and not $: a dollar also matches before a trailing newline.
_NAME: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{name_length_max}}}\Z", re.ASCII)


def _checked_name(what: str, text: object) -> str:
    if not isinstance(text, str) or _NAME.match(text) is None:
        shown = text if isinstance(text, str) and len(text) <= 2 * name_length_max else "..."
        raise InvalidName(
            f"{what} {shown!r} is not valid: use 1 to {name_length_max} of the characters "
            "A-Z a-z 0-9 _ -",
            field=what,
        )
    return text


def tenant_id(text: object) -> TenantId:
    return TenantId(_checked_name("tenant_id", text))


def project_id(text: object) -> ProjectId:
    return ProjectId(_checked_name("project_id", text))


def deployment_id(text: object) -> DeploymentId:
    return DeploymentId(_checked_name("deployment_id", text))


class _Chances:
    """64 bits of chance at a time, taken from the system for many ids at once: to ask it for each
    took longer than all the rest of an id. Two threads that refill at once each go on with theirs.
    """

    _DRAWN: Final = 256

    def __init__(self) -> None:
        self._left: Iterator[tuple[int]] = iter(())
        # Two processes must not make ids of the same bits.
        os.register_at_fork(after_in_child=self.forget)

    def __call__(self) -> int:
        chance = next(self._left, None)
        if chance is None:
            self._left = left = _CHANCE.iter_unpack(os.urandom(self._DRAWN * _CHANCE.size))
            chance = next(left)
        return chance[0]

    def forget(self) -> None:
        self._left = iter(())


class RunIdFactory:
    """Makes UUIDv7 run ids that never go backwards within the process.

    The id begins with the millisecond it was made in, so a run's records lie beside those of its
    contemporaries, and an archived run can be found by the day in its id. Within a millisecond
    (or when the clock steps back) the 12 bits after the version count up; when they overflow, the
    millisecond is borrowed from the future.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = 0  # (milliseconds << 12) | counter

    def __call__(self) -> RunId:
        with self._lock:
            self._last = ticks = max(self._clock.now_ms() << 12, self._last + 1)
        head = (ticks >> 12) << 16 | 0x7000 | (ticks & 0xFFF)
        return RunId(_HALVES.pack(head, _chance() & _TAIL_MASK | _VARIANT))


_HALVES: Final = struct.Struct(">QQ")
_CHANCE: Final = struct.Struct(">Q")
_TAIL_MASK: Final = 0x3FFF_FFFF_FFFF_FFFF
_VARIANT: Final = 0x8000_0000_0000_0000

_chance: Final = _Chances()
new_run_id: Final = RunIdFactory()

_RUN_ID_TEXT: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.ASCII | re.IGNORECASE
)


def run_id_text(run: RunId) -> str:
    assert len(run) == RUN_ID_BYTES
    text = run.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_run_id(text: object) -> RunId:
    """The 16 bytes of a run id in canonical text, as a user sends it."""
    if not isinstance(text, str) or _RUN_ID_TEXT.match(text) is None:
        raise InvalidName(
            f"run id {str(text)[:80]!r} is not valid: it has the form "
            "01890a5d-ac96-774b-bcce-b302099a8057",
            field="run_id",
        )
    return RunId(bytes.fromhex(text.replace("-", "")))


def run_created_ms(run: RunId) -> int:
    """When the run id was made, in milliseconds since the epoch: its first 48 bits."""
    return int.from_bytes(run[:6], "big")


def child_run_id(parent: RunId, position: int) -> RunId:
    """The id of the child that a run starts at a position: the same whoever computes it, so that
    the worker knows it before the engine answers and a child is started once. Its millisecond is
    the parent's; the 74 bits that are count and chance in other ids are a digest of both.
    """
    assert len(parent) == RUN_ID_BYTES
    assert 0 <= position < 2**64
    seed = parent + position.to_bytes(8, "big")
    bits = hashlib.blake2b(seed, digest_size=10, person=b"child run").digest()
    count = int.from_bytes(bits[:2], "big") & 0xFFF
    head = int.from_bytes(parent[:6], "big") << 16 | 0x7000 | count
    tail = int.from_bytes(bits[2:], "big") & _TAIL_MASK | _VARIANT
    return RunId(_HALVES.pack(head, tail))
