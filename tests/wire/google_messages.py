"""The messages of `protos/` as Google's own protobuf runtime has them, straight from the sources:
what the generated code and our codec are held against. Knows nothing of either."""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.descriptor import (  # type: ignore[import-untyped]
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message  # type: ignore[import-untyped]
from grpc_tools import protoc  # type: ignore[import-untyped]

PROTOS = Path(__file__).resolve().parents[2] / "protos"
SOURCES = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))


@functools.cache
def _files() -> list[Any]:
    with tempfile.TemporaryDirectory() as work:
        out = Path(work, "descriptors")
        arguments = [f"--proto_path={PROTOS}", f"--descriptor_set_out={out}", "--include_imports"]
        assert protoc.main(["protoc", *arguments, *SOURCES]) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return [pool.FindFileByName(file.name) for file in files.file]


def messages() -> dict[str, Descriptor]:
    return {name: one for file in _files() for name, one in file.message_types_by_name.items()}


def enums() -> dict[str, EnumDescriptor]:
    return {name: one for file in _files() for name, one in file.enum_types_by_name.items()}


def services() -> dict[str, ServiceDescriptor]:
    return {name: one for file in _files() for name, one in file.services_by_name.items()}


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def parse(name: str, data: bytes) -> Message:
    return message_factory.GetMessageClass(messages()[name]).FromString(data)


def of_struct(struct: msgspec.Struct) -> Message:
    """The message that says what the Struct of the same name says."""
    values = {name: _said(value) for name, value in msgspec.structs.asdict(struct).items()}
    return message_factory.GetMessageClass(messages()[type(struct).__name__])(**values)


def _said(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_said(part) for part in value]
    return of_struct(value) if isinstance(value, msgspec.Struct) else value


def plain(message: Message) -> dict[str, Any]:
    """Its fields by name, fit for ==: a message that is not there is None, not-a-number is text."""
    return {field.name: _plain(message, field) for field in message.DESCRIPTOR.fields}


def plain_struct(struct: msgspec.Struct) -> dict[str, Any]:
    """A Struct in the form that `plain` gives a message."""
    return {name: _comparable(value) for name, value in msgspec.structs.asdict(struct).items()}


def _plain(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if is_map(field):
        return dict(value)
    if field.is_repeated:
        return tuple(map(_comparable, value))
    if field.message_type is not None:
        return plain(value) if message.HasField(field.name) else None
    return _comparable(value)


def _comparable(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_comparable, value))
    if isinstance(value, msgspec.Struct):
        return plain_struct(value)
    if isinstance(value, Message):
        return plain(value)
    return "not a number" if isinstance(value, float) and math.isnan(value) else value
