"""Components: decorators, inputs and schemas, and a registry in which names are unique."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from typing import Any

import msgspec
import pytest

from engine.base.errors import DuplicateComponent, InvalidInput, UnknownComponent
from engine.model.payloads import RetryKind
from engine.model.runs import ComponentKind
from engine.sdk import (
    Component,
    Context,
    Registry,
    RetryPolicy,
    agent,
    entity,
    function,
    scorer,
    tool,
    workflow,
)
from engine.sdk.authoring.components import is_async
from engine.sdk.authoring.registry import declared
from engine.sdk.errors import InvalidComponent


@dataclasses.dataclass
class Order:
    id: str
    cents: int = 0


async def nothing(ctx: Context) -> None: ...
async def direct(ctx: Context, order: Order) -> None: ...
async def scalar(ctx: Context, name: str) -> None: ...
async def several(ctx: Context, x: int, y: int = 2) -> None: ...
async def untyped(ctx, anything): ...  # type: ignore[no-untyped-def]
async def optional(ctx: Context, n: int = 3) -> None: ...
async def maybe(ctx: Context, order: Order | None = None) -> None: ...
def no_context(x: int) -> None: ...
def annotated(c: Context, x: int) -> None: ...


@pytest.mark.parametrize(
    ("target", "data", "expected"),
    [
        (nothing, "null", {}),
        (nothing, "", {}),
        (nothing, "{}", {}),
        (direct, '{"id": "a", "cents": 5}', {"order": Order("a", 5)}),
        (scalar, '"Ada"', {"name": "Ada"}),
        (scalar, ' {"name": "Ada"}', {"name": "Ada"}),
        (several, '{"x": 1}', {"x": 1}),
        (several, '{"x": 1, "y": 5}', {"x": 1, "y": 5}),
        (several, "[1]", {"x": 1}),
        (several, "[1, 3]", {"x": 1, "y": 3}),
        (untyped, '{"anything": 1}', {"anything": 1}),
        (untyped, '{"x": 1}', {"anything": {"x": 1}}),
        (untyped, "null", {"anything": None}),
        (optional, "null", {}),
        (optional, "4", {"n": 4}),
        (maybe, "null", {}),
        (maybe, '{"id": "a"}', {"order": Order("a")}),
        (no_context, "1", {"x": 1}),
        (annotated, "1", {"x": 1}),
    ],
)
def test_an_input_becomes_arguments(target: Any, data: str, expected: dict[str, Any]) -> None:
    signature = function(target).signature
    args, named = signature.arguments(data.encode())
    names = [parameter.name for parameter in signature.parameters]
    assert dict(zip(names, args, strict=False)) | named == expected


@pytest.mark.parametrize(
    ("target", "data", "field", "words"),
    [
        (nothing, "1", "", "it takes no input"),
        (direct, '{"id": 1}', "id", "Expected `str`, got `int`"),
        (direct, "{}", "id", "missing required field"),
        (direct, "null", "", "it takes order: Order"),
        (scalar, '{"nme": "Ada"}', "", "Expected `str`, got `object`"),
        (several, '{"x": "1"}', "x", "x: int, y: int (may be left out)"),
        (several, '{"x": 1, "z": 1}', "z", "unknown field"),
        (several, "[1, 2, 3]", "", "at most 2 values, got 3"),
        (several, "[]", "x", "missing required field"),
        (scalar, "nope", None, "is not JSON"),
        (scalar, "", "", "Expected `str`, got `null`"),
    ],
)
def test_an_input_that_does_not_fit_names_the_field(
    target: Any, data: str, field: str | None, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        function(target).signature.arguments(data.encode())
    assert words in caught.value.message
    assert target.__name__ in caught.value.message
    assert caught.value.details.get("field") == field


@pytest.mark.parametrize(
    ("target", "schema"),
    [
        (nothing, {"type": "null"}),
        (scalar, {"type": "string"}),
        (optional, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (untyped, {}),
    ],
)
def test_schemas_of_inputs(target: Any, schema: dict[str, Any]) -> None:
    assert function(target).signature.input_schema() == schema


def test_schemas_of_objects_have_their_definitions() -> None:
    registered = function(direct).registered()
    schema = msgspec.json.decode(registered.input_schema)
    assert schema["$defs"]["Order"]["required"] == ["id"]
    assert msgspec.json.decode(registered.output_schema) == {"type": "null"}


def test_what_is_registered() -> None:
    registered = workflow(name="w", retry=RetryPolicy(attempts_max=7))(nothing).registered()
    assert (registered.name, registered.kind) == ("w", ComponentKind.WORKFLOW)
    assert registered.retry is not None
    assert (registered.retry.attempts_max, registered.retry.kind) == (7, RetryKind.EXPONENTIAL)
    assert function(nothing).registered().retry is None


# ---- decorators ----


@pytest.mark.parametrize(
    ("decorator", "kind"),
    [
        (workflow, ComponentKind.WORKFLOW),
        (function, ComponentKind.FUNCTION),
        (tool, ComponentKind.TOOL),
        (scorer, ComponentKind.SCORER),
        (entity, ComponentKind.ENTITY),
        (agent, ComponentKind.AGENT),
    ],
)
def test_decorators_bare_and_with_options(decorator: Any, kind: ComponentKind) -> None:
    async def made(ctx: Context, x: int) -> int:
        """Says what it does."""
        return x

    bare, named = decorator(made), decorator(name="other")(made)
    assert isinstance(bare, Component)
    assert (bare.name, bare.kind, named.name) == ("made", kind, "other")
    assert (bare.__doc__, bare.__name__) == ("Says what it does.", "made")
    assert bare.takes_context
    assert bare.is_async
    assert decorator.__doc__


def test_a_component_is_called_like_its_function() -> None:
    @function
    def add(a: int, b: int) -> int:
        return a + b

    assert add(1, b=2) == 3


@pytest.mark.parametrize(
    ("decorate", "words"),
    [
        (lambda: workflow(no_context), "write `async def no_context(ctx, ...)`"),
        (lambda: workflow(timeout=3)(nothing), "give it to the steps and waits"),
        (lambda: workflow(function(nothing)), "is decorated twice"),
        (lambda: function(name="a b")(nothing), "without spaces and slashes"),
        (lambda: function(name="a/b")(nothing), "without spaces and slashes"),
        (lambda: function(name="a\u202eb")(nothing), "that can be seen"),
        (lambda: function(name="x" * 129)(nothing), "1 to 128"),
        (lambda: function(lambda *args: 0, name="v"), "takes *args"),  # type: ignore[call-overload]
    ],
)
def test_a_function_that_cannot_be_a_component_says_why(decorate: Any, words: str) -> None:
    with pytest.raises((InvalidComponent, TypeError)) as caught:
        decorate()
    assert words in str(caught.value) or isinstance(caught.value, TypeError)


def test_a_parameter_that_json_cannot_say_is_refused_when_a_run_begins() -> None:
    class Socket:
        pass

    def send(socket: Socket, text: str) -> None: ...

    send.__annotations__["socket"] = Socket
    with pytest.raises(InvalidComponent, match="JSON has no form for parameter 'socket'"):
        function(send).signature.arguments(b"{}")


def test_variadic_parameters_are_refused() -> None:
    def variadic(*numbers: int) -> None: ...

    with pytest.raises(InvalidComponent, match=r"takes \*numbers"):
        function(variadic)


def test_whether_something_is_awaited() -> None:
    class Awaited:
        async def __call__(self) -> None: ...

    assert is_async(Awaited())
    assert is_async(functools.partial(nothing, None))
    assert not is_async(len)
    assert not is_async(lambda: None)


# ---- the registry ----


def test_names_are_unique() -> None:
    first, second = function(nothing), function(name="nothing")(direct)
    with pytest.raises(DuplicateComponent, match="two components are named 'nothing'") as caught:
        Registry([first, second])
    assert "test_components.py:" in caught.value.message
    assert len(Registry([first, first])) == 1


def test_a_module_serves_its_components() -> None:
    module = types.ModuleType("shop")
    module.first = module.again = function(nothing)  # type: ignore[attr-defined]
    module.other = 5  # type: ignore[attr-defined]
    assert [component.name for component in Registry.of(module)] == ["nothing"]
    with pytest.raises(InvalidComponent, match="module 'empty' has no components"):
        Registry.of(types.ModuleType("empty"))


def test_without_a_choice_all_that_is_declared_is_served() -> None:
    component = function(name="declared_once")(nothing)
    assert component in declared()
    again = function(name="declared_once")(nothing)
    assert again in declared()
    assert component not in declared(), "a module that is loaded again replaces what it declared"


def test_what_is_no_component_is_refused() -> None:
    with pytest.raises(InvalidComponent, match="decorate it with"):
        Registry([nothing])  # type: ignore[list-item]


def test_an_unknown_name_gets_the_nearest() -> None:
    registry = Registry([function(direct), function(scalar)])
    with pytest.raises(UnknownComponent, match=r"did you mean direct\?"):
        registry.find("dirct")
    with pytest.raises(UnknownComponent, match="it serves direct, scalar"):
        registry.find("xyz")
    assert registry.get("xyz") is None


def test_importing_the_sdk_leaves_asyncio_as_it_is() -> None:
    """trio-asyncio patches asyncio; only a worker on Trio may bring it in."""
    import subprocess

    program = "import engine.sdk, sys; print('trio_asyncio' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert out.stdout.strip() == b"False"
