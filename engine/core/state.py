"""The state of one run: what `decide` needs to know, and nothing that can be looked up elsewhere.

A state is a value; `apply` makes it from records and from records alone, so that folding the
journal always gives the stored one. Who holds the run at this moment is not here: a lease is a
fact of the running process (`runtime`), only its epoch is of the run.
"""

from __future__ import annotations

import msgspec

from engine.core.retry import DEFAULT_RULE, RetryRule
from engine.model.runs import RunStatus


class OpenWait(msgspec.Struct, array_like=True):
    """Something the run waits for and that has not come."""

    position: int
    wait_id: str
    kind: int
    name: str = ""
    due_ms: int = 0
    has_default: bool = False
    default: bytes = b""
    question: str = ""
    input_type: str = ""
    options: tuple[str, ...] = ()


class BufferedSignal(msgspec.Struct, array_like=True):
    """A signal that came before its wait."""

    name: str
    signal_id: str
    payload: bytes


class RunState(msgspec.Struct, array_like=True):
    """Stored as an array: a new field goes to the end and old rows read its default."""

    run_id: bytes
    next_offset: int = 0
    status: RunStatus | None = None
    attempt: int = 0
    lease_epoch: int = 0
    worker_id: str = ""
    # How often the run was handed out since it last got anywhere.
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
    waits: dict[str, OpenWait] = msgspec.field(default_factory=dict)
    signals: list[BufferedSignal] = msgspec.field(default_factory=list)
    signal_ids: list[str] = msgspec.field(default_factory=list)
    # Joined children that have not ended: position -> run id.
    children: dict[int, bytes] = msgspec.field(default_factory=dict)
    # State values of the run: name -> revision.
    revisions: dict[str, int] = msgspec.field(default_factory=dict)
    steps_completed: int = 0
    steps_failed: int = 0
    error_code: str = ""
    error_message: str = ""
    # Where the record that ended the run is; its payload has the output or the error.
    outcome_offset: int = 0

    @property
    def is_terminal(self) -> bool:
        return self.status is not None and self.status.is_terminal

    def next_due_ms(self) -> int | None:
        """When time alone will change something about this run."""
        if self.status is RunStatus.RETRYING:
            return self.retry_at_ms
        if self.status is RunStatus.QUEUED and self.start_at_ms and self.attempt == 0:
            return self.start_at_ms
        return min((wait.due_ms for wait in self.waits.values() if wait.due_ms), default=None)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(RunState)


def encode_state(state: RunState) -> bytes:
    return _ENCODER.encode(state)


def decode_state(row: bytes) -> RunState:
    return _DECODER.decode(row)
