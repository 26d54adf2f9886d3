"""The two implementations of the hot path, and what a call of either came to, so that one suite
can run on both and outcomes can be compared. Knows nothing of what the calls mean."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from engine.base.errors import EngineError
from engine.ext import append, offsets, replay
from tests.twins import append as twin_append
from tests.twins import offsets as twin_offsets
from tests.twins import replay as twin_replay


class Implementation(NamedTuple):
    name: str
    offsets: ModuleType
    append: ModuleType
    replay: ModuleType


COMPILED = Implementation("compiled", offsets, append, replay)
TWIN = Implementation("twin", twin_offsets, twin_append, twin_replay)


class Refused(NamedTuple):
    """A call that raised: the error's code and, where both say them, the facts behind it."""

    code: str
    details: tuple[tuple[str, object], ...] = ()


# C types refuse in the signature what the twin refuses with an assertion.
PROGRAMMER_ERRORS = (AssertionError, OverflowError, TypeError)


def outcome_of(call: Callable[[], Any], *, with_details: bool = False) -> object:
    """The value of a call, or how it was refused."""
    try:
        return call()
    except EngineError as error:
        return Refused(error.code, tuple(sorted(error.details.items())) if with_details else ())
    except PROGRAMMER_ERRORS:
        return Refused("programmer_error")


def plain(summary: msgspec.Struct) -> bytes:
    """A summary as it is stored; unlike the Struct it is equal to itself with a NaN in it."""
    return msgspec.msgpack.encode(summary)
