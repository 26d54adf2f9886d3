"""The state of one run: what `decide` needs to know, and nothing that can be looked up elsewhere.

A state is a value; `apply` makes it from records and from records alone, so that folding the
journal always gives the stored one. Who holds the run at this moment is not here: a lease is a
fact of the running process (`runtime`), only its epoch is of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.base import limits
from engine.base.errors import MalformedRecord
from engine.core.held import BufferedSignal, BufferedSignals, OpenWait, OpenWaits
from engine.model.payloads import WaitCreated
from engine.model.retry import DEFAULT_RULE, RetryRule
from engine.model.runs import RunStatus

# What is decoded is a plain dict; `__post_init__` makes of it what it is declared to be.
if TYPE_CHECKING:
    WaitsById = OpenWaits
    SignalsById = BufferedSignals
else:
    WaitsById = dict[str, OpenWait]
    SignalsById = dict[str, BufferedSignal]


class RunState(msgspec.Struct, array_like=True):
    """Stored as an array: a new field goes to the end and old rows read its default."""

    run_id: bytes
    next_offset: int = 0
    status: RunStatus | None = None
    attempt: int = 0
    lease_epoch: int = 0
    worker_id: str = ""
    # How often the run was lost with its worker since it last got anywhere.
    fruitless_starts: int = 0
    created_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    project_id: str = ""
    deployment_id: str = ""
    component: str = ""
    component_kind: int = 0
    entity_key: str = ""
    correlation_id: str = ""
    trace_id: str = ""
    parent_run_id: bytes = b""
    parent_position: int = 0
    start_at_ms: int = 0
    retry: RetryRule = DEFAULT_RULE
    retry_at_ms: int = 0
    waits: WaitsById = msgspec.field(default_factory=OpenWaits)
    signals: SignalsById = msgspec.field(default_factory=BufferedSignals)
    signal_ids: list[str] = msgspec.field(default_factory=list)
    # Joined children that have not ended: position -> run id.
    children: dict[int, bytes] = msgspec.field(default_factory=dict)
    # State values of scope RUN: name -> revision.
    revisions: dict[str, int] = msgspec.field(default_factory=dict)
    steps_completed: int = 0
    steps_failed: int = 0
    error_code: str = ""
    error_message: str = ""
    # Where the record that ended the run is; its payload has the output or the error.
    outcome_offset: int = 0
    session_id: str = ""
    user_id: str = ""
    # What `signals` and `waits` hold of other people's values, since both must fit the row.
    signals_bytes: int = 0
    waits_bytes: int = 0
    tags: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.waits) is dict:
            self.waits = OpenWaits(self.waits)
        if type(self.signals) is dict:
            self.signals = BufferedSignals(self.signals)

    @property
    def is_terminal(self) -> bool:
        return self.status is not None and self.status.is_terminal

    @property
    def is_suspect(self) -> bool:
        """It may be what its workers died of."""
        return self.fruitless_starts > limits.fruitless_starts_shared_max

    @property
    def begins_at_ms(self) -> int | None:
        """When its next attempt may begin, if that is a matter of time."""
        if self.status is RunStatus.RETRYING:
            return self.retry_at_ms
        if self.status is RunStatus.QUEUED and self.start_at_ms and self.attempt == 0:
            return self.start_at_ms
        return None

    def next_due_ms(self, after_ms: int = -1) -> int | None:
        """When time alone will change something about this run: its start, its next attempt, or
        one of its waits, which go on while it backs off."""
        due_ms = self.waits.next_due_ms(after_ms)
        begins_at_ms = self.begins_at_ms
        if begins_at_ms is None or begins_at_ms <= after_ms:
            return due_ms
        return begins_at_ms if due_ms is None else min(due_ms, begins_at_ms)


def wait_bytes(wait: OpenWait | WaitCreated) -> int:
    """How much of an open wait is its author's choice."""
    texts = (wait.wait_id, wait.name, wait.question, wait.input_type, *wait.options)
    options_bytes = limits.wait_option_bytes * len(wait.options)
    return len(wait.default) + options_bytes + sum(map(text_bytes, texts))


def signal_bytes(name: str, signal_id: str, payload: bytes) -> int:
    return text_bytes(name) + text_bytes(signal_id) + len(payload)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(RunState)


def encode_state(state: RunState) -> bytes:
    return _ENCODER.encode(state)


def decode_state(row: bytes) -> RunState:
    try:
        return _DECODER.decode(row)
    except msgspec.DecodeError as error:
        raise MalformedRecord(
            f"a state row of {len(row)} bytes is not the state of a run ({error}); run "
            "`engine journal verify`, and `engine journal salvage` to have it made anew",
            length=len(row),
        ) from error
