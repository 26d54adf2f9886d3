"""What the engine and a process of queries say to each other: frames on a socket, values in them.

A frame is its length, its kind and its bytes. Rows of an answer travel in parts of bounded size, as
MessagePack or as pieces of an Arrow stream; so do the hot rows on their way there. Whoever is read
from may be a process that strangers have taken over: lengths are bounded, and what does not decode
is an error of the sender. Knows neither processes nor SQL.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import msgspec

from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.model.views import RunFilter, RunPage
from engine.query.ports import StoreAccess


class Kind(IntEnum):
    # To the process.
    PREPARE = 1
    OPEN = 2
    HOT_RUNS = 3
    HOT_STEPS = 4
    ASK = 5
    STOP = 6
    # From it.
    READY = 16
    PART = 17  # the last piece of a part
    PIECE = 21
    DONE = 18
    FAILED = 19
    RESTART = 20  # the parts so far do not count


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    """The first message: enough to put up the walls. Holds secrets of the store: never shown."""

    settings: QuerySettings
    access: StoreAccess
    scratch: str
    niceness: int
    data_bytes_max: int
    # Whether it asks only what we have written ourselves, of many tenants.
    is_for_lists: bool = False


class Open(msgspec.Struct, frozen=True):
    """Whose process it is from now on, until its end; None: everybody's, for lists."""

    tenant: TenantId | None


class Ready(msgspec.Struct, frozen=True):
    walls: tuple[str, ...]  # those that stand


class Check(msgspec.Struct, frozen=True, tag=True):
    """Whether the SQL may run, and which views it reads."""

    sql: str


class Select(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One SELECT over the views, which are made of these files and of the hot rows sent before."""

    sql: str
    parameters: dict[str, Any] | None = None
    views: tuple[str, ...]
    run_files: tuple[str, ...] = ()
    step_files: tuple[str, ...] = ()
    unreadable: dict[str, str]  # what to leave out, each with its reason
    rows_max: int
    bytes_max: int
    as_arrow: bool = False


class ListRuns(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The newest archived runs that make a page of both tiers."""

    tenant: TenantId
    chosen: RunFilter
    files: tuple[str, ...]  # the ones that can hold the newest first
    unreadable: dict[str, str]
    hot: RunPage  # the page of the hot tier


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Nothing that was read of the tenant's files is remembered any more."""

    tenant: TenantId


Request = Check | Select | ListRuns | Forget


class Checked(msgspec.Struct, frozen=True, tag=True):
    views: tuple[str, ...]


class Selected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The rows were in the parts before it."""

    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    truncated: bool = False
    unreadable: dict[str, str]


class Listed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    page: RunPage
    unreadable: dict[str, str]


class Forgotten(msgspec.Struct, frozen=True, tag=True):
    pass


Answer = Checked | Selected | Listed | Forgotten


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    code: str  # of an error in `base/errors.py`; "" for a fault that is none of the user's
    message: str
    is_broken: bool = False  # the process is not to be asked again


Rows = tuple[tuple[Any, ...], ...]

encode: Final = msgspec.msgpack.Encoder().encode
decode_prepare: Final = msgspec.msgpack.Decoder(Prepare).decode
decode_open: Final = msgspec.msgpack.Decoder(Open).decode
decode_request: Final = msgspec.msgpack.Decoder(Request).decode
decode_ready: Final = msgspec.msgpack.Decoder(Ready).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode
decode_failed: Final = msgspec.msgpack.Decoder(Failed).decode
decode_rows: Final = msgspec.msgpack.Decoder(Rows).decode
