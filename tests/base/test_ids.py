"""Which strings may name a tenant, and that run ids are UUIDv7 and never go backwards."""

from __future__ import annotations

import os
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import ids
from engine.base.clock import ManualClock
from engine.base.errors import InvalidName
from engine.base.ids import RunId, RunIdFactory, parse_run_id, run_id_text
from engine.base.limits import name_length_max

NAMES = st.text("ABCXYZabcxyz0189_-", min_size=1, max_size=name_length_max)
CHECKS = [ids.tenant_id, ids.project_id, ids.deployment_id]

every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)

REFUSED = [
    pytest.param("", id="nothing"),
    pytest.param(".", id="this directory"),
    pytest.param("..", id="the directory above"),
    pytest.param("../other", id="a path up"),
    pytest.param("a/b", id="a path down"),
    pytest.param("a\\b", id="a path elsewhere"),
    pytest.param("/etc", id="an absolute path"),
    pytest.param("%2e%2e%2f", id="a quoted path"),
    pytest.param("a\x00", id="NUL at the end"),
    pytest.param("a\x00b", id="NUL"),
    pytest.param("a\n", id="a newline at the end"),
    pytest.param("\na", id="a newline at the start"),
    pytest.param("a\r", id="a carriage return"),
    pytest.param("a b", id="a space"),
    pytest.param(" a", id="a space at the start"),
    pytest.param("a=b", id="the separator of the directory's name"),
    pytest.param("tenant:1", id="a colon"),
    pytest.param("~", id="home"),
    pytest.param("аcme", id="a Cyrillic а"),
    pytest.param("acme\u200b", id="a space of no width"),
    pytest.param("ａcme", id="a wide a"),
    pytest.param("acme１", id="a wide digit"),
    pytest.param("acme٣", id="an Arabic digit"),
    pytest.param("ſhop", id="a long s, whose upper case is S"),
    pytest.param("\u212aelvin", id="a Kelvin sign, whose lower case is k"),
    pytest.param("café", id="an accent"),
    pytest.param("..\u2215etc", id="a division slash"),
    pytest.param("\ud800", id="half a surrogate"),
    pytest.param("a" * (name_length_max + 1), id="one too long"),
    pytest.param("a" * 100_000, id="far too long"),
    pytest.param(None, id="None"),
    pytest.param(7, id="a number"),
    pytest.param(b"acme", id="bytes"),
    pytest.param(["acme"], id="a list"),
]


@every_check
@given(name=NAMES)
def test_a_name_of_the_alphabet_is_taken_as_it_is(check: type, name: str) -> None:
    assert check(name) == name


@every_check
@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused(check: type, text: object) -> None:
    with pytest.raises(InvalidName) as caught:
        check(text)
    assert caught.value.details == {"field": check.__name__}
    assert check.__name__ in caught.value.message
    assert "A-Z a-z 0-9 _ -" in caught.value.message
    assert len(caught.value.message) < 500
    caught.value.message.encode()  # can be printed, whatever was sent


@pytest.mark.parametrize("length", [1, 63, name_length_max])
def test_the_lengths_a_name_may_have(length: int) -> None:
    assert name_length_max == 64
    assert ids.tenant_id("x" * length) == "x" * length


@given(text=st.text())
def test_what_is_taken_is_one_plain_path_component(text: str) -> None:
    try:
        name = ids.tenant_id(text)
    except InvalidName:
        return
    assert name.isascii()
    assert not set(name) & set("./\\\x00\n")


# ---- run ids ----


def counter_and_ms(run: RunId) -> tuple[int, int]:
    return int.from_bytes(run[6:8], "big") & 0xFFF, ids.run_created_ms(run)


def test_run_ids_are_uuids_of_version_7() -> None:
    for _ in range(100):
        parsed = uuid.UUID(bytes=ids.new_run_id())
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_a_run_id_says_when_it_was_made() -> None:
    clock = ManualClock()
    new_run_id = RunIdFactory(clock)
    assert ids.run_created_ms(new_run_id()) == clock.now_ms()
    clock.advance_us(5_000_000)
    assert ids.run_created_ms(new_run_id()) == clock.now_ms()


def test_run_ids_rise_within_a_millisecond() -> None:
    new_run_id = RunIdFactory(ManualClock())
    made = [new_run_id() for _ in range(4096)]
    assert made == sorted(set(made))
    assert len({ids.run_created_ms(run) for run in made}) == 1


def test_more_ids_than_the_counter_holds_borrow_from_the_next_millisecond() -> None:
    clock = ManualClock()
    new_run_id = RunIdFactory(clock)
    made = [new_run_id() for _ in range(4097)]
    assert made == sorted(set(made))
    assert counter_and_ms(made[-2]) == (4095, clock.now_ms())
    assert counter_and_ms(made[-1]) == (0, clock.now_ms() + 1)


def test_run_ids_rise_when_the_clock_steps_back() -> None:
    clock = ManualClock()
    new_run_id = RunIdFactory(clock)
    before = new_run_id()
    clock.jump_wall_us(-3_600_000_000)
    after = new_run_id()
    assert before < after
    assert ids.run_created_ms(after) == ids.run_created_ms(before)


def test_run_ids_are_one_sequence_for_all_threads() -> None:
    new_run_id = RunIdFactory(ManualClock())
    made: list[list[RunId]] = [[] for _ in range(4)]

    def make(into: list[RunId]) -> None:
        into.extend(new_run_id() for _ in range(500))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({run for mine in made for run in mine}) == 2_000


@given(run=st.binary(min_size=16, max_size=16))
def test_the_canonical_text_is_read_back(run: bytes) -> None:
    text = ids.run_id_text(RunId(run))
    assert text == str(uuid.UUID(bytes=run))
    assert ids.parse_run_id(text) == run
    assert ids.parse_run_id(text.upper()) == run


CANONICAL = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(CANONICAL[:-1], id="one short"),
        pytest.param(CANONICAL + "0", id="one too long"),
        pytest.param(CANONICAL + "\n", id="a newline at the end"),
        pytest.param(" " + CANONICAL, id="a space at the start"),
        pytest.param(CANONICAL.replace("-", ""), id="no hyphens"),
        pytest.param("{" + CANONICAL + "}", id="in braces"),
        pytest.param("urn:uuid:" + CANONICAL, id="as a URN"),
        pytest.param("0189-0a5dac96-774b-bcce-b302099a8057", id="hyphens elsewhere"),
        pytest.param(CANONICAL.replace("1", "１"), id="wide digits"),
        pytest.param(CANONICAL.replace("0", "g"), id="not hexadecimal"),
        pytest.param("../" + CANONICAL, id="a path"),
        pytest.param("x" * 100_000, id="far too long"),
        pytest.param(None, id="None"),
        pytest.param(uuid.UUID(CANONICAL), id="a UUID"),
        pytest.param(uuid.UUID(CANONICAL).bytes, id="bytes"),
    ],
)
def test_any_other_text_is_no_run_id(text: object) -> None:
    with pytest.raises(InvalidName) as caught:
        ids.parse_run_id(text)
    assert caught.value.details == {"field": "run_id"}
    assert CANONICAL in caught.value.message
    assert len(caught.value.message) < 300


def test_run_ids_have_as_much_chance_as_a_uuid_however_many_are_made() -> None:
    make = RunIdFactory(ManualClock())
    made = [make() for _ in range(2_000)]
    assert made == sorted(made)
    assert len({run[8:] for run in made}) == len(made)
    for run in made:
        parsed = uuid.UUID(bytes=bytes(run))
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert run_id_text(run) == str(parsed)
        assert parse_run_id(str(parsed).upper()) == run


def test_a_forked_process_makes_other_ids() -> None:
    make = RunIdFactory(ManualClock())
    make()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, make())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 16)
    os.close(reader)
    os.close(writer)
    ours = make()
    assert theirs[:8] == ours[:8], "the same clock and the same count"
    assert theirs[8:] != ours[8:]
