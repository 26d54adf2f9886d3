"""What is to be run where a step is asked for: a function, its arguments, and how often to try.

Reads from a function what it needs once per piece of code, because a function inside a workflow is
a new object in every run. Knows no run; `steps.py` runs what is described here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import msgspec

from engine.base.errors import LimitExceeded
from engine.model.runs import ComponentKind
from engine.sdk import limits, values
from engine.sdk.authoring.components import Component, is_async, seconds
from engine.sdk.authoring.retry import RetryPolicy
from engine.sdk.authoring.signatures import returns, takes_context

_TRAITS_MAX: Final = 10_000


class Traits(msgspec.Struct, frozen=True):
    """What a function is, apart from what it does."""

    name: str
    is_async: bool
    takes_context: bool
    decoder: values.Decode | None


class StepCall(msgspec.Struct, frozen=True):
    name: str
    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    traits: Traits
    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    is_tool: bool = False

    def describe(self) -> str:
        return f"step {self.name!r}"


_known: dict[object, Traits] = {}


def step_call(
    target: Any,
    arguments: tuple[Any, ...],
    *,
    name: str | None = None,
    key: object = None,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
) -> StepCall:
    if not callable(target):
        _refuse(target)
    traits = _traits(target)
    timeout_s = seconds(timeout)
    is_tool = False
    function = target
    if isinstance(target, Component):
        function = target.function
        retry = retry or target.retry
        timeout_s = target.timeout_s if timeout_s is None else timeout_s
        is_tool = target.kind is ComponentKind.TOOL
    name = name or traits.name
    key_text = "" if key is None else str(key)
    if max(len(name), len(key_text)) > limits.step_name_length_max:
        raise LimitExceeded(
            f"the name and the key of a step have at most {limits.step_name_length_max} "
            f"characters; {name[:40]!r} has more",
        )
    return StepCall(name, key_text, function, arguments, traits, retry, timeout_s, is_tool)


def _refuse(target: object) -> None:
    if inspect.iscoroutine(target):
        target.close()
        name = target.__qualname__
        raise TypeError(
            f"ctx.step takes a function and its arguments, not the call {name}(...): write "
            f"ctx.step({name}, ...)"
        )
    raise TypeError(f"ctx.step takes a function or a component's name, not {target!r}")


def _traits(target: Callable[..., Any]) -> Traits:
    code = target if isinstance(target, Component) else getattr(target, "__code__", None)
    if code is None:
        return _read_traits(target)
    traits = _known.get(code)
    if traits is None:
        if len(_known) >= _TRAITS_MAX:
            _known.clear()
        traits = _known[code] = _read_traits(target)
    return traits


def _read_traits(target: Callable[..., Any]) -> Traits:
    if isinstance(target, Component):
        return Traits(target.name, target.is_async, target.takes_context, target.output_decoder)
    inner: Any = target
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", type(inner).__name__)
    # A partial has been given its first argument, so the context has no place in it.
    with_context = inner is target and takes_context(inner)
    return Traits(name, is_async(target), with_context, values.decoder_for(returns(inner)))
