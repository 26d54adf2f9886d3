"""The form of a registration: what is filled in, and what is refused with which advice."""

from __future__ import annotations

import pytest

from engine.base import limits
from engine.base.errors import EngineError, UnsupportedSdk
from engine.coordinator.register import check_sdk_version, checked_register
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component, Register

ORDER = Component(name="order", kind=ComponentKind.WORKFLOW)


def register(**changes: object) -> Register:
    fields: dict[str, object] = {
        "components": (ORDER,),
        "capacity": 1,
        "sdk_version": "1.4.2",
        "worker_id": "w1",
        "deployment_id": "blue",
    }
    return Register(**fields | changes)  # type: ignore[arg-type]


def test_what_is_complete_is_left_as_it_is() -> None:
    assert checked_register(register(), engine_version="1.9.0") == register()


def test_what_is_not_said_is_filled_in() -> None:
    given = register(worker_id="", deployment_id="")
    one, two = (checked_register(given, engine_version="1.9.0") for _ in range(2))
    assert one.deployment_id == "default"
    assert one.worker_id != two.worker_id


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"capacity": 0}, "from 1 to 10000"),
        ({"capacity": 10_001}, "from 1 to 10000"),
        ({"components": ()}, "registers 0 components"),
        ({"components": (ORDER,) * 1_001}, "registers 1001 components"),
        ({"worker_id": "a b"}, "worker_id 'a b'"),
        ({"deployment_id": "a/b"}, "deployment_id 'a/b'"),
    ],
)
def test_a_field_that_cannot_be(changes: dict[str, object], advice: str) -> None:
    with pytest.raises(EngineError) as caught:
        checked_register(register(**changes), engine_version="1.9.0")
    assert advice in caught.value.message


@pytest.mark.parametrize(
    ("name", "fields", "advice"),
    [
        ("", {}, "component name ''"),
        ("a b", {}, "without spaces"),
        ("a/b", {}, "slashes"),
        ("a\n", {}, "without spaces"),
        ("a\x9b31m", {}, "that can be seen"),
        ("a\u202eb", {}, "that can be seen"),
        ("a\u200bb", {}, "that can be seen"),
        ("a\u2028b", {}, "that can be seen"),
        ("a\ufeff", {}, "that can be seen"),
        ("\ue000", {}, "that can be seen"),
        ("x" * 129, {}, "1 to 128 characters"),
        ("order", {"kind": 0}, "use FUNCTION WORKFLOW"),
        ("order", {"kind": 77}, "has kind 77"),
        ("order", {"input_schema": b"{"}, "input_schema of component 'order'"),
        ("order", {"output_schema": b"[]"}, "not a JSON Schema object"),
        ("order", {"input_schema": b" " * (limits.schema_bytes_max + 1)}, "at most 262144"),
    ],
)
def test_a_component_that_cannot_be(name: str, fields: dict[str, object], advice: str) -> None:
    kind = {"kind": ComponentKind.WORKFLOW}
    component = Component(name=name, **kind | fields)  # type: ignore[arg-type]
    with pytest.raises(EngineError) as caught:
        checked_register(register(components=(component,)), engine_version="1.9.0")
    assert advice in caught.value.message


@pytest.mark.parametrize("name", ["order", "shop.order-v2", "überweisung", "注文"])
def test_names_that_can_be(name: str) -> None:
    component = Component(
        name=name, kind=ComponentKind.FUNCTION, input_schema=b'{"type": "object"}'
    )
    checked_register(register(components=(component,)), engine_version="1.9.0")


@pytest.mark.parametrize(
    ("sdk", "engine"),
    [("0.1.0", "0.1.9"), ("0.1.0rc1", "0.1.0"), ("1.0.0", "1.7.3"), ("0.1", "0.1.0")],
)
def test_versions_that_understand_each_other(sdk: str, engine: str) -> None:
    check_sdk_version(sdk, engine)


@pytest.mark.parametrize(
    ("sdk", "engine", "install"),
    [
        ("0.2.0", "0.1.0", "pip install 'durable-engine==0.1.*'"),
        ("2.0.0", "1.3.0", "pip install 'durable-engine==1.*'"),
        ("0.1.0", "1.0.0", "pip install 'durable-engine==1.*'"),
        ("", "0.1.0", "version ''"),
        ("latest", "0.1.0", "version 'latest'"),
        ("9" * 100, "0.1.0", "durable-engine==0.1.*"),
        ("0.10.0", "0.1.0", "durable-engine==0.1.*"),
    ],
)
def test_versions_that_do_not_say_what_to_install(sdk: str, engine: str, install: str) -> None:
    with pytest.raises(UnsupportedSdk) as caught:
        check_sdk_version(sdk, engine)
    assert install in caught.value.message
