"""What a workflow, a step or a worker can meet besides the engine's own errors.

An error of a step or of a child run comes back from the journal, as data: it has the type's name
and the message of the exception that was raised, not the exception itself. Knows nothing of how
an error travels; `failures.py` turns exceptions into records and back.
"""

from __future__ import annotations

from engine.base.errors import EngineError, NoStateScope, NotDeterministic, NotSerializable
from engine.model.payloads import Error

__all__ = [
    "ChildError",
    "ConnectionLost",
    "InvalidComponent",
    "InvalidOutput",
    "MissingPackage",
    "NoStateScope",
    "NonRetryable",
    "NotDeterministic",
    "NotInWorkflow",
    "NotSerializable",
    "RunFailed",
    "StateConflict",
    "StepError",
    "StepTimedOut",
    "WaitTimedOut",
    "WorkflowStuck",
]


class NonRetryable(Exception):
    """Raise this, or a subclass, where another try cannot succeed: no retry policy applies."""


class _Recorded(EngineError):
    """A failure as the journal has it."""

    def __init__(self, message: str, error: Error, **details: object) -> None:
        super().__init__(message, **details)
        self.error = error

    @property
    def type(self) -> str:
        """The name of the exception's type, such as `ValueError`."""
        return self.error.type

    @property
    def error_code(self) -> str:
        return self.error.code

    @property
    def traceback(self) -> str:
        """The stack as the worker had it; may be empty."""
        return self.error.traceback


class StepError(_Recorded):
    """A step failed and will not be tried again. `type` and `message` are the exception's own."""

    code = "step_failed"

    def __init__(self, step: str, error: Error) -> None:
        super().__init__(error.message, error, step=step)
        self.step = step

    def __str__(self) -> str:
        return f"step {self.step!r} failed: {self.error.type or self.error.code}: {self.message}"


class ChildError(_Recorded):
    """A child run failed or was cancelled. `run_id` is the child's."""

    code = "child_failed"

    def __init__(self, component: str, run_id: str, status: str, error: Error) -> None:
        super().__init__(error.message, error, component=component, run_id=run_id)
        self.component = component
        self.run_id = run_id
        self.status = status

    def __str__(self) -> str:
        why = f": {self.error.type or self.error.code}: {self.message}" if self.message else ""
        return f"child run {self.component!r} ({self.run_id}) {self.status.lower()}{why}"


class RunFailed(_Recorded):
    """A run that a client waited for did not complete."""

    code = "run_failed"

    def __init__(self, run_id: str, status: str, error: Error) -> None:
        super().__init__(error.message, error, run_id=run_id, status=status)
        self.run_id = run_id
        self.status = status

    def __str__(self) -> str:
        why = f": {self.error.type or self.error.code}: {self.message}" if self.message else ""
        return f"run {self.run_id} {self.status.lower()}{why}"


class WaitTimedOut(EngineError, TimeoutError):
    """A signal or an answer did not come in time, and the wait has no default."""

    code = "wait_timed_out"


class StepTimedOut(EngineError, TimeoutError):
    """A try of a step took longer than its `timeout`."""

    code = "step_timed_out"


class NotInWorkflow(EngineError):
    """A durable operation was asked for where no replay can find it again."""

    code = "not_in_workflow"


class WorkflowStuck(EngineError):
    """The workflow waits for something that nothing can bring about."""

    code = "workflow_stuck"


class StateConflict(EngineError):
    """The state was changed in between: read it again and decide anew. Nothing was changed."""

    code = "state_conflict"

    def __init__(self, what: str, *, expected: int, revision: int) -> None:
        super().__init__(
            f"{what} is at revision {revision}, not {expected}: read it again",
            expected=expected,
            revision=revision,
        )
        self.expected = expected
        self.revision = revision


class InvalidComponent(EngineError):
    """A function cannot be a component as it is written."""

    code = "invalid_component"


class InvalidOutput(EngineError):
    """A function returned something else than its annotation says."""

    code = "invalid_output"


class ConnectionLost(EngineError):
    """The runtime cannot be reached, or the connection to it broke."""

    code = "connection_lost"


class MissingPackage(EngineError):
    """A library that only this operation needs is not installed."""

    code = "missing_package"
