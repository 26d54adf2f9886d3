"""A run as queries and people see it: statuses, component kinds, and the summary that the fold of
its records yields.

The rules that move a run from one status to the next are in `core`; this file only names things.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class RunStatus(enum.IntEnum):
    QUEUED = 1
    RUNNING = 2
    WAITING = 3
    RETRYING = 4
    COMPLETED = 5
    FAILED = 6
    CANCELLED = 7

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES: Final = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class ComponentKind(enum.IntEnum):
    FUNCTION = 1
    WORKFLOW = 2
    ENTITY = 3
    AGENT = 4
    TOOL = 5
    SCORER = 6


class RunSummary(msgspec.Struct, kw_only=True, array_like=True):
    """What the fold of a run's records yields, and what its state row holds.

    Stored as an array, so a new field goes to the end and old rows read its default. Numbers are
    plain ints (not the enums) because the compiled fold fills them and queries read them.
    """

    next_offset: int = 0
    status: int = 0
    component_kind: int = 0
    attempt: int = 0
    lease_epoch: int = 0
    created_us: int = 0
    started_us: int = 0
    completed_us: int = 0
    updated_us: int = 0
    steps_completed: int = 0
    steps_failed: int = 0
    waits_open: int = 0
    signals_received: int = 0
    children_started: int = 0
    children_finished: int = 0
    state_changes: int = 0
    tool_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    cancel_requested: bool = False
    project_id: str = ""
    deployment_id: str = ""
    component: str = ""
    model: str = ""
    error_code: str = ""
    error_message: str = ""
    prompt_version: str = ""
    trace_id: str = ""
    correlation_id: str = ""
    parent_run_id: bytes = b""
