"""A component: a function of the user's with a name, a kind, and what it takes and returns.

Calling a component calls the function, so that users can test it as they would any other. Knows no
worker and no run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar

import msgspec

from engine.base.component_names import COMPONENT_NAME_RULE, is_component_name
from engine.base.errors import InvalidInput
from engine.base.limits import key_length_max
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component as RegisteredComponent
from engine.sdk import values
from engine.sdk.authoring.retry import RetryPolicy
from engine.sdk.authoring.signatures import Signature
from engine.sdk.errors import InvalidComponent

REPLAYED_KINDS: Final = frozenset(
    {ComponentKind.WORKFLOW, ComponentKind.ENTITY, ComponentKind.AGENT}
)

P = ParamSpec("P")
R = TypeVar("R")


class Component(Generic[P, R]):
    def __init__(
        self,
        function: Callable[P, R],
        kind: ComponentKind,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> None:
        if isinstance(function, Component):
            raise InvalidComponent(
                f"{function.describe()} is decorated twice; take one of them off"
            )
        functools.update_wrapper(self, function)
        self.function: Final = function
        self.kind: Final = kind
        self.name: Final = _checked_name(name or str(getattr(function, "__name__", "")))
        self.retry: Final = retry
        self.timeout_s: Final = seconds(timeout)
        self.is_async: Final = is_async(function)
        self.signature: Final = Signature(function, self.describe())
        self.output_decoder: Final = values.decoder_for(self.signature.returns)
        word = kind.name.lower()
        if self.is_replayed and not self.is_async:
            raise InvalidComponent(
                f"{self.describe()} is a plain function, and a {word} waits for what it asks: "
                f"write `async def {self.name}(ctx, ...)`"
            )
        if self.is_replayed and timeout is not None:
            raise InvalidComponent(
                f"{self.describe()} has a timeout, and only what runs in one go can have one: give "
                f"it to the steps and waits of the {word}"
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    @property
    def takes_context(self) -> bool:
        return self.signature.takes_context

    @property
    def is_replayed(self) -> bool:
        """Its code puts durable operations together; a function does its work in one go."""
        return self.kind in REPLAYED_KINDS

    def of(self, key: str) -> EntityRef:
        """Of an entity: the one with this key."""
        return EntityRef(self, key)

    def describe(self) -> str:
        return f"{self.kind.name.lower()} {self.name!r}"

    def registered(self) -> RegisteredComponent:
        """As the worker tells the engine about it."""
        return RegisteredComponent(
            name=self.name,
            kind=self.kind,
            input_schema=msgspec.json.encode(self.signature.input_schema()),
            output_schema=msgspec.json.encode(self.signature.output_schema()),
            retry=self.retry.recorded() if self.retry is not None else None,
        )


class EntityRef:
    """One entity, by its component (or the name of it, where another worker serves it) and key."""

    def __init__(self, component: Component[..., Any] | str, key: str) -> None:
        if isinstance(component, Component) and component.kind is not ComponentKind.ENTITY:
            raise InvalidComponent(f"{component.describe()} is no entity and has no keys")
        if not 0 < len(key.encode()) <= key_length_max:
            raise InvalidInput(
                f"an entity's key has 1 to {key_length_max} bytes, not {len(key.encode())}",
                field="entity_key",
            )
        self.component: Final = component
        self.key: Final = key


def called(target: Any) -> tuple[Component[..., Any] | str, str]:
    """The component that a child run is of, and the entity's key."""
    if isinstance(target, EntityRef):
        return target.component, target.key
    if isinstance(target, Component) and target.kind is ComponentKind.ENTITY:
        raise InvalidInput(
            f"{target.describe()} has many, and this does not say which: {target.name}.of(key)",
            field="entity_key",
        )
    if not isinstance(target, Component | str):
        raise TypeError(f"a child run is of a component or its name, not of {target!r}")
    return target, ""


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - the method, not whether there is one
    )


def seconds(duration: float | timedelta | None) -> float | None:
    if duration is None:
        return None
    given = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if given != given or given < 0:
        raise ValueError(f"a duration of {given} s cannot be waited for")
    return given


def _checked_name(name: str) -> str:
    if not is_component_name(name):
        raise InvalidComponent(
            f"component name {name[:80]!r} is not valid: {COMPONENT_NAME_RULE}", field="name"
        )
    return name
