"""Cold frames of the worker stream: values to bytes and back, by number.

Cold are the frames that come once a session or when something is wrong. The hot ones, of every
step, are `engine.ext.frames`, which also takes a message of the stream apart and hands on what is
cold as ("cold", number, bytes). Knows no stream, no session and no hot frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import betterproto2

from engine.base.errors import MalformedRecord
from engine.model.worker_frames import (
    ENGINE_FRAME_TYPES,
    WORKER_FRAME_TYPES,
    EngineFrame,
    WorkerFrame,
)
from engine.wire import codec
from engine.wire.generated.engine import v1

# What a worker calls, once.
CONNECT_METHOD: Final = "/engine.v1.Coordinator/Connect"

_LENGTH_DELIMITED: Final = 2

_WORKER_SHAPES: Final[Mapping[int, codec.Shape]] = {
    number: codec.shape_of(frame_type, v1) for number, frame_type in WORKER_FRAME_TYPES.items()
}
_ENGINE_SHAPES: Final[Mapping[int, codec.Shape]] = {
    number: codec.shape_of(frame_type, v1) for number, frame_type in ENGINE_FRAME_TYPES.items()
}
_NUMBERS: Final[Mapping[type, tuple[int, codec.Shape]]] = {
    shape.struct_type: (number, shape)
    for shapes in (_WORKER_SHAPES, _ENGINE_SHAPES)
    for number, shape in shapes.items()
}


def encode_worker_frame(frame: WorkerFrame) -> bytes:
    """A whole WorkerFrame, for `frames.pack_frames`."""
    return encode(frame)


def encode_engine_frame(frame: EngineFrame) -> bytes:
    """A whole EngineFrame, for `frames.pack_frames`."""
    return encode(frame)


def encode(frame: WorkerFrame | EngineFrame) -> bytes:
    """Either of the two; a Struct is of one side only."""
    number, shape = _NUMBERS[type(frame)]
    try:
        message = codec.encode(shape, frame)
    except ValueError as error:
        name = type(frame).__name__
        raise MalformedRecord(
            f"a {name} frame cannot be written: {error}; nothing was sent", frame=name
        ) from error
    tag = betterproto2.encode_varint(number << 3 | _LENGTH_DELIMITED)
    return tag + betterproto2.encode_varint(len(message)) + message


def decode_worker_frame(number: int, message: bytes) -> WorkerFrame:
    """What the bytes of a ("cold", number, bytes) from a worker say."""
    frame = _decode(_WORKER_SHAPES, number, message)
    assert isinstance(frame, WorkerFrame)
    return frame


def decode_engine_frame(number: int, message: bytes) -> EngineFrame:
    """What the bytes of a ("cold", number, bytes) from the engine say."""
    frame = _decode(_ENGINE_SHAPES, number, message)
    assert isinstance(frame, EngineFrame)
    return frame


def _decode(shapes: Mapping[int, codec.Shape], number: int, message: bytes) -> object:
    shape = shapes.get(number)
    if shape is None:
        raise MalformedRecord(
            f"this version knows no cold frame {number}; a newer peer may send it: skip it",
            number=number,
        )
    name = shape.struct_type.__name__
    try:
        return codec.decode(shape, message)
    except ValueError as error:
        raise MalformedRecord(
            f"these bytes are not a {name} frame: {error}; use an SDK of the engine's version",
            frame=name,
        ) from error
