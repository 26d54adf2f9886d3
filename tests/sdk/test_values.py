"""User values as JSON: typed, checked, and named where they cannot be stored."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import msgspec
import pytest

from engine.base.errors import LimitExceeded, NotSerializable
from engine.sdk import limits, values
from engine.sdk.errors import InvalidOutput


class Item(msgspec.Struct):
    name: str
    thing: Any = None


@dataclasses.dataclass
class Box:
    items: list[Any]


class Model:
    """Looks like one of pydantic's."""

    def __init__(self, n: int) -> None:
        self.n = n

    def model_dump(self, *, mode: str) -> dict[str, int]:
        return {"n": self.n}

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if not isinstance(value.get("n"), int):
            raise ValueError("n is not a number")
        return cls(value["n"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "it is of type object"),
        ({"a": [0, {"b c": object()}]}, "$.a[1]['b c'] is of type object"),
        (Box([Item("x", thing={1, object})]), "$.items[0].thing"),
        ({"f": print}, "$.f is of type builtin_function_or_method"),
        ([1j], "$[0] is of type complex"),
        (Item("x", (1, open)), "$.thing[1] is of type builtin_function_or_method"),
    ],
)
def test_a_value_that_cannot_be_stored_names_the_smallest_part(value: Any, words: str) -> None:
    with pytest.raises(NotSerializable, match="the result of step 'x'") as caught:
        values.encode(value, "the result of step 'x'")
    assert words in caught.value.message
    assert "return numbers, text, lists" in caught.value.message


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotSerializable):
        values.encode(loop, "it")


def test_a_value_that_is_too_large_says_so() -> None:
    with pytest.raises(LimitExceeded, match="store it elsewhere"):
        values.encode("x" * (limits.value_bytes_max + 1), "it")
    assert values.encode_shown("x" * limits.value_bytes_max) == b'"<too large>"'


@pytest.mark.parametrize(
    ("hint", "value", "seen"),
    [
        (int, 5, 5),
        (Any, (1, 2), [1, 2]),
        (list[int], (1, 2), [1, 2]),
        (datetime, datetime(2026, 1, 2), datetime(2026, 1, 2)),
        (Item, Item("a"), Item("a")),
        (Item | None, None, None),
        (float, 1, 1.0),
        (dict[str, Item], {"a": {"name": "b"}}, {"a": Item("b")}),
    ],
)
def test_a_result_is_what_its_annotation_says(hint: Any, value: Any, seen: Any) -> None:
    data, settled = values.settle(value, values.decoder_for(hint), "it")
    assert settled == seen
    assert type(settled) is type(seen)
    assert values.decode_as(values.decoder_for(hint), data, "it") == seen


def test_models_of_pydantic_are_values() -> None:
    data, settled = values.settle(Model(3), values.decoder_for(Model), "it")
    assert (data, settled.n) == (b'{"n":3}', 3)
    with pytest.raises(InvalidOutput, match="n is not a number"):
        values.settle({"n": "x"}, values.decoder_for(Model), "it")


def test_a_class_that_json_has_no_form_for_is_refused_when_it_is_used() -> None:
    class Socket:
        pass

    with pytest.raises(InvalidOutput, match="JSON has no form of a"):
        values.settle({}, values.decoder_for(Socket), "it")


@pytest.mark.parametrize(("hint", "value"), [(int, "5"), (Item, {"nme": 1}), (None, 1), (str, 1)])
def test_a_result_of_another_type_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(InvalidOutput, match="it is not what its annotation says"):
        values.settle(value, values.decoder_for(hint), "it")


def test_arguments_are_shown_as_well_as_they_can_be() -> None:
    assert values.encode_shown((1, object(), {"a": print})) == (
        b'[1,"<object>",{"a":"<builtin_function_or_method>"}]'
    )
    assert values.encode_shown(({object(): 1},)) == b'[{"<object>":1}]'


def test_arguments_look_the_same_in_every_process() -> None:
    """A replay compares them; the order of a set of texts is another one in each process."""
    names = [f"name {number}" for number in range(20)]
    shown = values.encode_shown((set(names), {"b": 1, "a": 2}))
    assert shown == values.encode_shown(({*names[::-1]}, {"a": 2, "b": 1}))
    assert values.decode(shown)[0] == sorted(names)
