"""Which components a worker serves: by name, each name once.

Also remembers what the decorators declared in this process, for a worker that is not told what to
serve. Knows no stream and no run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from engine.base.errors import DuplicateComponent, UnknownComponent
from engine.base.limits import components_per_worker_max
from engine.base.nearest import nearest_names
from engine.sdk.authoring.components import Component
from engine.sdk.errors import InvalidComponent

AnyComponent = Component[..., Any]
C = TypeVar("C", bound=AnyComponent)

# By where it is defined, so that a module that is loaded again replaces what it declared.
_declared: dict[tuple[str, str], AnyComponent] = {}


def declare(component: C) -> C:
    function = component.function
    where = (getattr(function, "__module__", ""), getattr(function, "__qualname__", ""))
    _declared[where] = component
    return component


def declared() -> list[AnyComponent]:
    """Everything that was decorated in this process so far."""
    return list(_declared.values())


class Registry:
    def __init__(self, components: Iterable[AnyComponent] = ()) -> None:
        self._by_name: dict[str, AnyComponent] = {}
        for component in components:
            self.add(component)

    @classmethod
    def of(cls, served: ModuleType | Iterable[AnyComponent] | None) -> Registry:
        """Of a module's components, of those in a list, or of all that are declared."""
        if served is None:
            return cls(declared())
        if isinstance(served, ModuleType):
            found = [value for value in vars(served).values() if isinstance(value, Component)]
            if not found:
                raise InvalidComponent(
                    f"module {served.__name__!r} has no components: decorate its functions with "
                    "@workflow, @function, @tool, @entity, @agent or @scorer"
                )
            return cls(dict.fromkeys(found))
        return cls(served)

    def add(self, component: AnyComponent) -> None:
        if not isinstance(component, Component):
            raise InvalidComponent(
                f"{component!r} is not a component: decorate it with @workflow, @function or @tool"
            )
        twin = self._by_name.setdefault(component.name, component)
        if twin is not component:
            raise DuplicateComponent(
                f"two components are named {component.name!r}: {_where(twin)} and "
                f"{_where(component)}; give one of them another with name=",
                component=component.name,
            )
        if len(self._by_name) > components_per_worker_max:
            raise InvalidComponent(
                f"a worker serves at most {components_per_worker_max} components"
            )

    def get(self, name: str) -> AnyComponent | None:
        return self._by_name.get(name)

    def find(self, name: str) -> AnyComponent:
        component = self._by_name.get(name)
        if component is None:
            names = sorted(self._by_name)
            near = nearest_names(name, names)
            served = ", ".join(names[:10]) or "nothing"
            raise UnknownComponent(
                f"this worker serves no component {name!r}; "
                + (f"did you mean {' or '.join(near)}?" if near else f"it serves {served}"),
                component=name,
                nearest=near,
            )
        return component

    def __iter__(self) -> Iterator[AnyComponent]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _where(component: AnyComponent) -> str:
    code = getattr(component.function, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{component.describe()}{place}"
