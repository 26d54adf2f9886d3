"""Journal payloads: values to bytes and back, by record kind.

Everything else in the engine speaks `engine.model.payloads` and these three functions. Knows no
record header, no offset and no disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.base.errors import MalformedRecord
from engine.model.payloads import PAYLOAD_TYPES, Payload
from engine.model.records import RecordKind
from engine.wire import codec
from engine.wire.generated.engine import v1

_SHAPES: Final[Mapping[int, codec.Shape]] = {
    kind: codec.shape_of(payload_type, v1) for kind, payload_type in PAYLOAD_TYPES.items()
}
_KINDS: Final = {payload_type: kind for kind, payload_type in PAYLOAD_TYPES.items()}


def kind_of(payload: Payload) -> RecordKind:
    return _KINDS[type(payload)]


def encode(payload: Payload) -> bytes:
    kind = kind_of(payload)
    try:
        return codec.encode(_SHAPES[kind], payload)
    except ValueError as error:
        raise MalformedRecord(
            f"a {kind.name} record cannot be written: {error}; nothing was written",
            kind=kind.name,
        ) from error


def decode(kind: int, data: bytes) -> Payload:
    """What the bytes say. A newer version's fields are skipped, its enum numbers stay numbers."""
    shape = _SHAPES.get(kind)
    if shape is None:
        raise MalformedRecord(
            f"this version knows no record of kind {kind}; read it with the version that wrote it",
            kind=kind,
        )
    name = RecordKind(kind).name
    try:
        payload = codec.decode(shape, data)
    except ValueError as error:
        raise MalformedRecord(
            f"these bytes are not a {name} record: {error}; if they come from the disk, "
            "`engine journal verify` finds what else is damaged",
            kind=name,
        ) from error
    assert isinstance(payload, Payload)
    return payload
