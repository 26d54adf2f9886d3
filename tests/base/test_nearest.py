"""A name that does not exist is answered with those that come close, in bounded time."""

from __future__ import annotations

import random
import time

import pytest

from engine.base import limits
from engine.base.limits import component_name_length_max, components_known_max
from engine.base.nearest import nearest_names


def best_ms(name: str, names: list[str]) -> float:
    best = float("inf")
    for _ in range(3):
        begun = time.thread_time()
        nearest_names(name, names)
        best = min(best, time.thread_time() - begun)
    return best * 1_000


def test_among_few_by_likeness() -> None:
    names = ["cancel", "checkout", "refund"]
    assert nearest_names("chekout", names) == ["checkout"]
    assert nearest_names("efund", names) == ["refund"], "wherever the mistake is"
    assert nearest_names("zzz", names) == []


def test_among_many_by_the_beginning() -> None:
    names = sorted(f"order-{number:05}" for number in range(components_known_max))
    assert nearest_names("order-00123x", names)[0] == "order-00123"
    assert nearest_names("order-", names)[0] == "order-00000"
    assert len(nearest_names("order-0", names)) == limits.nearest_names_max
    assert nearest_names("zebra", names) == []
    assert nearest_names("", names) == []


def test_the_nearest_by_their_beginning_are_those_of_a_plain_look() -> None:
    dice = random.Random(7)
    names = sorted({"".join(dice.choices("ab", k=dice.randrange(1, 14))) for _ in range(2_000)})
    assert len(names) > limits.nearest_names_fuzzy_max
    for _ in range(200):
        asked = "".join(dice.choices("ab", k=dice.randrange(1, 14)))
        common = [len(_shared(asked, name)) for name in names]
        wanted = sorted((n for n in common if n >= max(1, len(asked) // 2)), reverse=True)
        found = [len(_shared(asked, name)) for name in nearest_names(asked, names)]
        assert found == wanted[: limits.nearest_names_max]


def _shared(one: str, other: str) -> str:
    return next(one[:n] for n in range(len(one), -1, -1) if other.startswith(one[:n]))


@pytest.mark.parametrize("count", [limits.nearest_names_fuzzy_max, components_known_max])
@pytest.mark.parametrize("alphabet", ["a", "ab", "abcdefghijklmnop"])
@pytest.mark.parametrize("length", [12, 60, component_name_length_max])
def test_however_long_and_alike_the_names_are(count: int, alphabet: str, length: int) -> None:
    dice = random.Random(length)

    def made() -> str:
        return "".join(dice.choices(alphabet, k=length))

    took_ms = best_ms(made(), sorted(made() for _ in range(count)))
    assert took_ms < limits.loop_pass_us_max / 1_000
