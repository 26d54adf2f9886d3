"""From an outcome to what the code gets for it: a value, or an exception.

One function for each sort of operation; pure.
"""

from __future__ import annotations

from typing import Any, Final

from engine.base.ids import RunId, run_id_text
from engine.model.payloads import WaitKind
from engine.sdk import values
from engine.sdk.errors import ChildError, StateConflict, StepError, WaitTimedOut
from engine.sdk.replay.operations import (
    ChangeState,
    Outcome,
    Raised,
    ReadState,
    Returned,
    StateIs,
    StateLost,
    Wait,
    described_state,
)

_YES: Final = frozenset({"true", "yes", "y", "approve", "approved", "ok"})


def of_step(name: str, decoder: values.Decode | None, outcome: Outcome) -> Any:
    if isinstance(outcome, Raised):
        raise StepError(name, outcome.error)
    assert isinstance(outcome, Returned)
    return values.decode_as(decoder, outcome.value, f"the recorded result of step {name!r}")


def of_child(name: str, decoder: values.Decode | None, run_id: RunId, outcome: Outcome) -> Any:
    if isinstance(outcome, Raised):
        raise ChildError(name, run_id_text(run_id), outcome.status, outcome.error)
    assert isinstance(outcome, Returned)
    return values.decode_as(decoder, outcome.value, f"the result of child run {name!r}")


def nothing(outcome: Outcome) -> None:
    assert isinstance(outcome, Returned)


def awaited(wait: Wait, outcome: Outcome) -> Any:
    if not isinstance(outcome, Returned):
        raise WaitTimedOut(f"{wait.describe()} timed out after {_seconds(wait)} s")
    return values.decode(outcome.value)


def answered(wait: Wait, outcome: Outcome) -> Any:
    answer = awaited(wait, outcome)
    if wait.kind == WaitKind.USER and wait.input_type == "approval":
        # Whatever is not clearly a yes is a no.
        return answer.strip().lower() in _YES if isinstance(answer, str) else answer is True
    if wait.input_type == "multiselect" and not isinstance(answer, list):
        return [] if answer is None else [answer]
    return answer


def of_state(asked: ReadState | ChangeState, outcome: Outcome) -> StateIs:
    if isinstance(outcome, StateLost):
        raise StateConflict(
            described_state(asked.scope, asked.name),
            expected=outcome.expected,
            revision=outcome.revision,
        )
    assert isinstance(outcome, StateIs)
    return outcome


def _seconds(wait: Wait) -> str:
    return f"{(wait.duration_ms or 0) / 1_000:g}"
