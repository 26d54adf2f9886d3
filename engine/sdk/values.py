"""User values: to JSON bytes and back, typed where the user gave a type.

What a step returns goes through bytes also when it is not replayed, so that the code sees the same
value either way. Knows no record and no component.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from engine.base.errors import LimitExceeded, NotSerializable
from engine.sdk import limits
from engine.sdk.errors import InvalidOutput

NOTHING: Final = b"null"


def _encode_foreign(value: Any) -> Any:
    """Pydantic models, recognised by their methods: pydantic itself is never imported."""
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__qualname__} has no form in JSON")


def _decode_foreign(hint: Any, value: Any) -> Any:
    if hasattr(hint, "model_validate"):
        return hint.model_validate(value)
    raise TypeError(f"JSON has no form of a {hint.__qualname__}")


def _name_foreign(value: Any) -> Any:
    return f"<{type(value).__qualname__}>"


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_foreign)
_DECODER: Final = msgspec.json.Decoder()
_LENIENT: Final = msgspec.json.Encoder(enc_hook=_name_foreign)
# A set has to look the same in every process, since a replay compares what a step is called with.
_IN_ORDER: Final = msgspec.json.Encoder(enc_hook=_name_foreign, order="deterministic")

# JSON gives these back as they are; for these types a round trip changes nothing.
_SAME_AFTER: Final = frozenset({str, int, bool, type(None)})
_DEPTH_MAX: Final = 64

Decode = msgspec.json.Decoder[Any]


def encode(value: object, what: str) -> bytes:
    """The value as JSON. `what` names it in the error: "the result of step 'charge'"."""
    try:
        data = _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotSerializable(_cannot_be_stored(value, what, error), value=what) from error
    if len(data) > limits.value_bytes_max:
        raise LimitExceeded(
            f"{what} is {len(data):,} bytes of JSON, and at most {limits.value_bytes_max:,} go "
            "into a record; store it elsewhere and return a reference to it",
            bytes=len(data),
        )
    return data


def encode_shown(value: object) -> bytes:
    """The value as JSON for people who read the journal: what JSON cannot say is named by type.

    For the arguments of a step. They are compared with the code's in a replay but never read back,
    and a connection or a client is a natural argument of a step.
    """
    data = _encode_lenient(value)
    return data if len(data) <= limits.value_bytes_max else _ENCODER.encode("<too large>")


def _encode_lenient(value: object) -> bytes:
    for encoder in (_IN_ORDER, _LENIENT):  # keys of several types, or foreign ones, have no order
        try:
            return encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            continue
    return _ENCODER.encode(f"<{type(value).__qualname__}>")


def decode(data: bytes) -> Any:
    return _DECODER.decode(data) if data else None


def decoder_for(hint: object) -> Decode | None:
    """Reads values of an annotated type; None where the annotation says nothing about JSON."""
    try:
        return _decoder_for(hint)
    except TypeError:  # not hashable, such as Annotated[int, {...}]
        return _make_decoder(hint)


def _make_decoder(hint: object) -> Decode | None:
    if hint is Any or hint is object:
        return None
    try:
        return msgspec.json.Decoder(hint, dec_hook=_decode_foreign)
    except (TypeError, RuntimeError):
        return None  # a class of the user's that JSON has no form for


_decoder_for = functools.lru_cache(maxsize=1_024)(_make_decoder)


def decode_as(decoder: Decode | None, data: bytes, what: str) -> Any:
    """What was encoded, in the annotated type; a value of another type is an error."""
    if decoder is None:
        return decode(data)
    try:
        return decoder.decode(data or NOTHING)
    except msgspec.ValidationError as error:
        raise InvalidOutput(
            f"{what} is not what its annotation says: {error}; return that type, or change the "
            "annotation"
        ) from error


def settle(value: object, decoder: Decode | None, what: str) -> tuple[bytes, Any]:
    """The bytes of a result, and the result as the code will see it now and at every replay."""
    data = encode(value, what)
    plain = type(value) in _SAME_AFTER and (decoder is None or decoder.type is type(value))
    return data, value if plain else decode_as(decoder, data, what)


# ---- which part of a value cannot be stored ----


def _cannot_be_stored(value: object, what: str, error: Exception) -> str:
    found = next(_culprits(value, "$", 0), None)
    advice = "return numbers, text, lists, dicts, dataclasses or msgspec Structs"
    if found is None:
        return f"{what} cannot be stored as JSON: {error}; {advice}"
    path, culprit = found
    where = "it" if path == "$" else path
    kind = type(culprit)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return f"{what} cannot be stored as JSON: {where} is of type {name}; {advice}"


def _culprits(value: object, path: str, depth: int) -> Iterator[tuple[str, object]]:
    """Paths to what cannot be encoded, deepest first, so that the smallest part is named."""
    if _is_encodable(value):
        return
    if depth < _DEPTH_MAX:
        for step, part in _parts(value):
            yield from _culprits(part, path + step, depth + 1)
    yield path, value


def _is_encodable(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            step = f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"
            yield step, part
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name)
