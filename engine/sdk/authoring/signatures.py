"""What a component takes and returns: read from its signature, checked when a run begins.

A run has one input, a JSON value; a function has parameters. How the one becomes the other:

    async def f(ctx)                     no input
    async def f(ctx, order: Order)       the input is the order
    async def f(ctx, name: str)          the input is the name, or {"name": ...}
    async def f(ctx, a: int, b: int = 2) the input is {"a": 1, "b": 3}, or [1, 3]

Knows no run and no record.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine.base.errors import InvalidInput
from engine.sdk import values
from engine.sdk.errors import InvalidComponent

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_UNION: Final[Any] = typing.Union  # of hints that are only known at run time
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`")
_NAMED: Final = re.compile(r"field `([^`]+)`")
_OBJECTS: Final = (
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.TypedDictType,
    msgspec.inspect.DictType,
    msgspec.inspect.CustomType,
)


class Parameter(msgspec.Struct, frozen=True):
    name: str
    hint: Any
    is_required: bool


class Signature:
    """`what` names the component in errors: "workflow 'checkout'"."""

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self.what = what
        parameters = list(inspect.signature(function).parameters.values())
        hints = _hints(function)
        self.takes_context = takes_context(function)
        self.parameters = [
            self._parameter(parameter, hints) for parameter in parameters[self.takes_context :]
        ]
        self.returns: Any = returns(function)
        self._read: Callable[[bytes], Arguments] | None = None

    def arguments(self, data: bytes) -> Arguments:
        """The arguments that an input stands for."""
        if self._read is None:
            self._read = self._reader()
        try:
            return self._read(data or values.NOTHING)
        except msgspec.ValidationError as error:
            raise InvalidInput(
                f"{self.what} cannot take this input: {error}; it takes {self.describe()}",
                field=_field(str(error)),
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the input of {self.what} is not JSON: {error}") from error

    def describe(self) -> str:
        if not self.parameters:
            return "no input"
        return ", ".join(
            f"{parameter.name}: {_hint_name(parameter.hint)}"
            + ("" if parameter.is_required else " (may be left out)")
            for parameter in self.parameters
        )

    def input_schema(self) -> dict[str, Any]:
        match self.parameters:
            case []:
                return {"type": "null"}
            case [only]:
                return _schema(only.hint if only.is_required else _UNION[only.hint, None])
            case _:
                return _schema(self._as_struct())

    def output_schema(self) -> dict[str, Any]:
        return _schema(self.returns)

    # ---- inside ----

    def _parameter(self, parameter: inspect.Parameter, hints: dict[str, Any]) -> Parameter:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidComponent(
                f"{self.what} takes *{parameter.name}, and an input cannot say what goes into it; "
                "give it named parameters",
            )
        return Parameter(
            parameter.name,
            hints.get(parameter.name, Any),
            parameter.default is parameter.empty,
        )

    def _reader(self) -> Callable[[bytes], Arguments]:
        for parameter in self.parameters:
            if not _is_readable(parameter.hint):
                raise InvalidComponent(
                    f"{self.what} cannot be started from outside: JSON has no form for parameter "
                    f"{parameter.name!r}, a {_hint_name(parameter.hint)}; take a dataclass, a "
                    "msgspec Struct or plain values"
                )
        match self.parameters:
            case []:
                return self._read_nothing
            case [only]:
                return self._reader_of_one(only)
            case _:
                return self._reader_of_several()

    def _read_nothing(self, data: bytes) -> Arguments:
        if values.decode(data) not in (None, {}):
            raise msgspec.ValidationError("Expected nothing")
        return (), {}

    def _reader_of_one(self, parameter: Parameter) -> Callable[[bytes], Arguments]:
        decoder = values.decoder_for(parameter.hint)
        wrapped = msgspec.json.Decoder(
            msgspec.defstruct("Input", [(parameter.name, msgspec.Raw)], forbid_unknown_fields=True)
        )
        may_be_wrapped = not _is_object(parameter.hint)

        def read(data: bytes) -> Arguments:
            if data == values.NOTHING and not parameter.is_required:
                return (), {}
            if may_be_wrapped and data.lstrip()[:1] == b"{":
                with contextlib.suppress(msgspec.ValidationError):  # the value itself, or wrong
                    data = bytes(getattr(wrapped.decode(data), parameter.name))
            return (decoder.decode(data) if decoder else values.decode(data),), {}

        return read

    def _reader_of_several(self) -> Callable[[bytes], Arguments]:
        decoder = values.decoder_for(self._as_struct())
        assert decoder is not None

        def read(data: bytes) -> Arguments:
            if data.lstrip()[:1] == b"[":
                data = self._named(values.decode(data))
            named = {
                name: value
                for name, value in msgspec.structs.asdict(decoder.decode(data)).items()
                if value is not msgspec.UNSET
            }
            return (), named

        return read

    def _named(self, given: list[Any]) -> bytes:
        if len(given) > len(self.parameters):
            raise msgspec.ValidationError(
                f"Expected at most {len(self.parameters)} values, got {len(given)}"
            )
        names = (parameter.name for parameter in self.parameters)
        return msgspec.json.encode(dict(zip(names, given, strict=False)))

    def _as_struct(self) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for parameter in self.parameters:
            if parameter.is_required:
                fields.append((parameter.name, parameter.hint))
            else:
                hint = _UNION[parameter.hint, msgspec.UnsetType]
                fields.append((parameter.name, hint, msgspec.UNSET))
        return msgspec.defstruct("Input", fields, kw_only=True, forbid_unknown_fields=True)


def _field(message: str) -> str:
    """Where in the input it is wrong, as `items[0].price`; empty: the input as a whole."""
    path = _PATH.search(message)
    named = _NAMED.search(message)
    parts = [path[1] if path else "", named[1] if named else ""]
    return ".".join(part for part in parts if part)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        # An annotation that cannot be resolved, such as a name imported for type checkers only.
        return {}


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether the first parameter is the context: by its annotation, or by the name `ctx`."""
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return False  # written in C
    if first is None:
        return False
    hint = _hints(function).get(first.name)
    return first.name == "ctx" or bool(getattr(hint, "is_engine_context", False))


def returns(function: Callable[..., Any]) -> Any:
    """What it says it returns; Any where it says nothing."""
    return _hints(function).get("return", Any)


def _type_info(hint: Any) -> Any:
    try:
        return msgspec.inspect.type_info(hint)
    except (TypeError, RuntimeError):
        return None


def _is_readable(hint: Any) -> bool:
    if isinstance(hint, type) and isinstance(_type_info(hint), msgspec.inspect.CustomType):
        return hasattr(hint, "model_validate")
    return hint is Any or hint is object or values.decoder_for(hint) is not None


def _is_object(hint: Any) -> bool:
    info = _type_info(hint)
    if isinstance(info, msgspec.inspect.UnionType):
        return any(isinstance(part, _OBJECTS) for part in info.types)
    return isinstance(info, _OBJECTS)


def _schema(hint: Any) -> dict[str, Any]:
    if hint is Any or hint is object or hint is inspect.Parameter.empty:
        return {}
    try:
        return msgspec.json.schema(hint, schema_hook=_foreign_schema)
    except (TypeError, RuntimeError):
        return {}


def _foreign_schema(hint: Any) -> dict[str, Any]:
    if hasattr(hint, "model_json_schema"):
        return dict(hint.model_json_schema())
    return {}


def _hint_name(hint: Any) -> str:
    if hint is Any:
        return "any JSON"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
