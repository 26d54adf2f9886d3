"""Whether a registration can be accepted, before the runtime sees it.

Pure checks of one frame: form and versions. Whether it agrees with the other workers is decided
by the runtime's pools, which know them.
"""

from __future__ import annotations

import os
import re
from typing import Final

import msgspec

from engine.base import limits
from engine.base.component_names import COMPONENT_NAME_RULE, is_component_name
from engine.base.errors import (
    InvalidInput,
    InvalidName,
    LimitExceeded,
    MalformedRecord,
    UnsupportedSdk,
)
from engine.base.ids import deployment_id
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component, Register, WorkerFrame
from engine.wire.scan import scan

DEPLOYMENT_DEFAULT: Final = "default"

_TOKEN: Final = 1  # the field's number in Register
_FIELDS_MAX: Final = limits.components_per_worker_max + 32

_WORKER_ID: Final = re.compile(rf"[A-Za-z0-9_.:-]{{1,{limits.name_length_max}}}\Z", re.ASCII)
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:[.\-+a-z]|\Z)")


def token_of(message: bytes) -> str:
    """The token of an encoded Register, read without building the rest of it."""
    token = b""
    try:
        for at, (number, _, value) in enumerate(scan(message)):
            if at >= _FIELDS_MAX:
                raise LimitExceeded(
                    f"a registration has at most {limits.components_per_worker_max} components: "
                    "spread them over several workers",
                    limit="components_per_worker_max",
                )
            if number == _TOKEN and isinstance(value, bytes):
                token = value
        return token.decode()
    except ValueError as error:
        raise MalformedRecord(
            f"these bytes are not a Register frame: {error}; use an SDK of the engine's version"
        ) from error


def checked_register(register: WorkerFrame, *, engine_version: str) -> Register:
    """The registration with what it left out filled in, or the error that says what to change."""
    assert isinstance(register, Register)
    check_sdk_version(register.sdk_version, engine_version)
    if not 0 < register.capacity <= limits.worker_capacity_max:
        raise InvalidInput(
            f"capacity is {register.capacity}: a worker runs from 1 to "
            f"{limits.worker_capacity_max} runs at a time",
            field="capacity",
        )
    _check_components(register.components)
    return msgspec.structs.replace(
        register,
        deployment_id=deployment_id(register.deployment_id or DEPLOYMENT_DEFAULT),
        worker_id=_checked_worker_id(register.worker_id),
    )


def check_sdk_version(sdk_version: str, engine_version: str) -> None:
    """The SDK and the engine are one distribution; what they say to each other changes with the
    major version, and before 1.0 with the minor one."""
    theirs, ours = _series(sdk_version), _series(engine_version)
    assert ours is not None
    if theirs == ours:
        return
    series = ".".join(str(part) for part in ours)
    raise UnsupportedSdk(
        f"the worker's SDK is version {sdk_version[:40]!r}; this engine is {engine_version} and "
        f"works with {series}.*: run `pip install 'durable-engine=={series}.*'` where the worker "
        "runs, and start it again",
        sdk_version=sdk_version[:40],
        engine_version=engine_version,
    )


def _series(version: str) -> tuple[int, ...] | None:
    matched = _VERSION.match(version)
    if matched is None:
        return None
    major, minor = int(matched[1]), int(matched[2])
    return (major,) if major else (0, minor)


def _check_components(components: tuple[Component, ...]) -> None:
    if not 0 < len(components) <= limits.components_per_worker_max:
        raise InvalidInput(
            f"the worker registers {len(components)} components: register from 1 to "
            f"{limits.components_per_worker_max}",
            field="components",
        )
    for component in components:
        name = component.name
        if not is_component_name(name):
            raise InvalidName(
                f"component name {name[:80]!r} is not valid: {COMPONENT_NAME_RULE}", field="name"
            )
        if not isinstance(component.kind, ComponentKind):
            raise InvalidInput(
                f"component {name!r} has kind {component.kind}, which this engine does not know: "
                f"use {' '.join(kind.name for kind in ComponentKind)}",
                field="kind",
            )
        _check_schema(name, "input_schema", component.input_schema)
        _check_schema(name, "output_schema", component.output_schema)


def _check_schema(component: str, field: str, schema: bytes) -> None:
    if len(schema) > limits.schema_bytes_max:
        raise LimitExceeded(
            f"the {field} of component {component!r} has {len(schema)} bytes, at most "
            f"{limits.schema_bytes_max}: describe the outer part of the value only",
            field=field,
        )
    if not schema:
        return
    try:
        msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"the {field} of component {component!r} is not a JSON Schema object: {error}",
            field=field,
        ) from error


def _checked_worker_id(worker_id: str) -> str:
    if not worker_id:
        return f"worker-{os.urandom(8).hex()}"
    if _WORKER_ID.match(worker_id) is None:
        raise InvalidName(
            f"worker_id {worker_id[:80]!r} is not valid: use 1 to {limits.name_length_max} of the "
            "characters A-Z a-z 0-9 _ - . :, or leave it empty",
            field="worker_id",
        )
    return worker_id
