"""Exceptions to recorded errors.

An error's `code` is what programs match on: the `code` of the exception where it has one, else the
name of its type. Knows no run and no step.
"""

from __future__ import annotations

import traceback

from engine.base.errors import (
    EngineError,
    InvalidInput,
    LimitExceeded,
    MalformedRecord,
    NoStateScope,
    NotDeterministic,
    NotSerializable,
)
from engine.model.payloads import Error
from engine.sdk import limits
from engine.sdk.errors import (
    ChildError,
    InvalidComponent,
    InvalidOutput,
    NonRetryable,
    NotInWorkflow,
    StepError,
    WaitTimedOut,
)

# Another try would meet the same: the input, the code or the record would have to change first.
_FINAL = (
    NonRetryable,
    InvalidComponent,
    InvalidInput,
    InvalidOutput,
    LimitExceeded,
    MalformedRecord,
    NoStateScope,
    NotDeterministic,
    NotInWorkflow,
    NotSerializable,
    WaitTimedOut,
)


def recorded(error: BaseException) -> Error:
    """The error as it goes into the journal."""
    if isinstance(error, StepError | ChildError):
        return _passed_on(error)
    return Error(
        code=_code(error)[: limits.step_name_length_max],
        message=_cut(_message(error), limits.message_characters_max),
        type=type(error).__qualname__,
        traceback=_traceback(error),
        non_retryable=isinstance(error, _FINAL),
    )


def not_deterministic(where: str, recorded: str, asked: str) -> Error:
    """The journal and the code, side by side."""
    return Error(
        code=NotDeterministic.code,
        message=f"the workflow is not deterministic: at {where}\n"
        f"    the journal has     {recorded}\n"
        f"    the code asked for  {asked}\n"
        "A workflow has to ask for the same operations in the same order whenever it is "
        "replayed. Take time, chance and the outside world from ctx or from a step, and give "
        "changed code a new workflow name while old runs are open.",
        type="NotDeterministic",
        non_retryable=True,
    )


def _passed_on(error: StepError | ChildError) -> Error:
    """The failure of a part that the workflow let through is its own: code and type stay, and the
    message says which part it was. A child run has had its retries."""
    return Error(
        code=error.error.code,
        message=_cut(str(error), limits.message_characters_max),
        type=error.error.type,
        traceback=error.error.traceback,
        non_retryable=error.error.non_retryable or isinstance(error, ChildError),
    )


def _code(error: BaseException) -> str:
    code = getattr(error, "code", None)
    if isinstance(error, EngineError) or (isinstance(code, str) and code):
        return str(code)
    return type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as again:  # noqa: BLE001 - an exception of the user's that cannot be shown
        return f"<its message cannot be shown: {type(again).__name__}>"


def _traceback(error: BaseException) -> str:
    """The last part is the user's code, so that is what stays when it is too long."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    text = "".join(lines)
    return text[-limits.traceback_characters_max :]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
