"""The rules of shared state: what becomes of a question, and what of it is the run's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.base.errors import InvalidInput, LimitExceeded, NoStateScope, StaleFence
from engine.base.limits import state_name_bytes_max, state_value_bytes_max
from engine.core.shared import decide_shared
from engine.core.state import RunState, decode_state, encode_state
from engine.core.values import Decision
from engine.model.commands import Report, ReportedEntry, SharedValue
from engine.model.payloads import (
    Payload,
    RunCompleted,
    StateChanged,
    StateConflicted,
    StateRead,
    StateScope,
)
from engine.model.records import RecordKind
from engine.wire.journal import encode, kind_of
from tests.core.driver import Driver

GLOBAL, SESSION = StateScope.GLOBAL, StateScope.SESSION
SEVEN = SharedValue(3, b"7")


def read(position: int = 1, scope: int = GLOBAL) -> StateRead:
    return StateRead(position=position, scope=scope, name="n", lease_epoch=1)


def change(value: bytes, expected: int | None = None, position: int = 1, **more: Any) -> Payload:
    return StateChanged(
        **{"position": position, "scope": GLOBAL, "name": "n", "value": value, **more},
        expected_revision=expected or 0,
        has_expected=expected is not None,
    )


def asked(
    *payloads: Payload, now: SharedValue | None = None, scope: int = GLOBAL, **accepted: str
) -> Driver:
    """A run that has reported these while the value was such."""
    run = Driver().start(**accepted).begin()
    entries = tuple(ReportedEntry(kind_of(one), encode(one), one) for one in payloads)
    shared = {} if now is None else {(int(scope), "n"): now}
    run.carry_out(Report(lease_epoch=1, entries=entries, shared=shared))
    return run


def outcome(run: Driver) -> Any:
    return run.payloads(run.journal[-1][0])[-1]


def test_a_read_is_journaled_with_what_was_found() -> None:
    run = asked(read(), now=SEVEN)
    found = outcome(run)
    assert (found.value, found.revision, found.found, found.position) == (b"7", 3, True, 1)
    assert run.rebuilt() == run.state, "REBUILD_EQUALS_STATE"


@pytest.mark.parametrize("now", [None, SharedValue(4, None)])
def test_a_read_of_what_is_not_there(now: SharedValue | None) -> None:
    found = outcome(asked(read(), now=now))
    assert (found.value, found.revision, found.found) == (b"", now.revision if now else 0, False)


@pytest.mark.parametrize("expected", [None, 3])
def test_a_change_makes_the_next_revision(expected: int | None) -> None:
    run = asked(change(b"8", expected), now=SEVEN)
    changed = outcome(run)
    assert (changed.value, changed.revision, changed.scope_key) == (b"8", 4, "")
    assert run.state.revisions == {}, "what is shared is not the run's"


@pytest.mark.parametrize("expected", [0, 2, 4])
def test_a_change_that_expected_another_revision_changes_nothing(expected: int) -> None:
    run = asked(change(b"8", expected), now=SEVEN)
    lost = outcome(run)
    assert isinstance(lost, StateConflicted)
    assert (lost.expected_revision, lost.revision, lost.position) == (expected, 3, 1)
    assert run.kinds[-1] == "STATE_CONFLICTED"
    assert run.rebuilt() == run.state


def test_questions_of_one_report_see_each_other() -> None:
    run = asked(
        change(b"8", 3, position=1),
        read(position=2),
        change(b"", 4, position=3, deleted=True),
        change(b"9", 4, position=4),
        read(position=5),
        now=SEVEN,
    )
    assert run.kinds[2:] == [
        "STATE_CHANGED",
        "STATE_READ",
        "STATE_CHANGED",
        "STATE_CONFLICTED",
        "STATE_READ",
    ]
    first, second = run.payloads(RecordKind.STATE_READ)
    assert (first.value, first.revision) == (b"8", 4)
    assert (second.found, second.revision) == (False, 5)


@pytest.mark.parametrize(
    ("scope", "accepted", "key"),
    [
        (SESSION, {"session_id": "s1"}, "s1"),
        (StateScope.USER, {"user_id": "u1"}, "u1"),
        (StateScope.ENTITY, {"entity_key": "ann"}, "checkout/ann"),
        (GLOBAL, {}, ""),
    ],
)
def test_whose_state_it_is(scope: StateScope, accepted: dict[str, str], key: str) -> None:
    assert outcome(asked(read(scope=scope), **accepted)).scope_key == key


@pytest.mark.parametrize("scope", [SESSION, StateScope.USER, StateScope.ENTITY])
def test_a_run_without_the_id_has_no_such_state(scope: StateScope) -> None:
    run = Driver().start().begin()
    before = encode_state(run.state)
    with pytest.raises(NoStateScope, match=f"no state of scope '{scope.name.lower()}', because"):
        run.report(read(scope=scope))
    assert encode_state(run.state) == before


@pytest.mark.parametrize("scope", [0, StateScope.RUN, 99])
def test_only_shared_state_is_read_by_asking(scope: int) -> None:
    with pytest.raises(InvalidInput, match="use SESSION, USER, ENTITY or GLOBAL"):
        Driver().start().begin().report(read(scope=scope))


def test_names_and_values_have_bounds() -> None:
    run = Driver().start().begin()
    with pytest.raises(LimitExceeded, match=f"the limit is {state_value_bytes_max}"):
        run.report(change(b"x" * (state_value_bytes_max + 1)))
    for name in ("", "n" * (state_name_bytes_max + 1)):
        with pytest.raises(LimitExceeded, match="the name of a piece of state has 1 to"):
            run.report(change(b"x", name=name))
    run.report(change(b"x" * state_value_bytes_max))


def test_a_worker_may_not_decide_a_race_itself() -> None:
    with pytest.raises(Exception, match="may not report a STATE_CONFLICTED"):
        Driver().start().begin().report(StateConflicted(position=1, scope=GLOBAL, name="n"))


def test_a_change_of_an_earlier_lease_changes_nothing() -> None:
    """NO_STALE_FENCE_WRITE"""
    run = Driver().start().begin().begin("worker-2")
    with pytest.raises(StaleFence):
        run.report(change(b"8"), epoch=1)
    assert "STATE_CHANGED" not in run.kinds


def test_a_question_counts_as_progress_and_may_come_with_the_end() -> None:
    run = asked(read(), now=SEVEN)
    assert run.state.fruitless_starts == 0
    run = asked(change(b"8"), RunCompleted(output=b"1"))
    assert run.kinds[-2:] == ["STATE_CHANGED", "RUN_COMPLETED"]


def test_what_was_given_with_the_command_is_not_changed() -> None:
    given = {(int(GLOBAL), "n"): SEVEN}
    run = Driver().start().begin()
    question = change(b"8")
    entry = ReportedEntry(RecordKind.STATE_CHANGED, encode(question), question)
    run.carry_out(Report(lease_epoch=1, entries=(entry,), shared=given))
    assert given == {(int(GLOBAL), "n"): SEVEN}
    overlay = dict(given)
    decide_shared(run.state, Decision([]), question, overlay)
    assert overlay[int(GLOBAL), "n"] == SharedValue(4, b"8")


def test_a_state_row_of_before_has_no_session() -> None:
    """Rows are arrays: the new fields are at the end and have defaults."""
    state = Driver().start(session_id="s1", user_id="u1").state
    assert decode_state(encode_state(state)) == state
    fields = msgspec.msgpack.decode(encode_state(state))
    at = RunState.__struct_fields__.index("session_id")
    before = decode_state(msgspec.msgpack.encode(fields[:at]))
    assert (before.component, before.session_id, before.user_id) == ("checkout", "", "")
