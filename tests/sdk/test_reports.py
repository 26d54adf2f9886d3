"""Whatever a workflow reports, the SDK cuts it into reports that the engine takes."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base import limits
from engine.base.ids import child_run_id
from engine.model.payloads import (
    ChildMode,
    ChildStarted,
    Payload,
    StepCompleted,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.sdk.replay.records import encode
from engine.sdk.replay.reports import ReportQueue
from engine.wire.rules import check_record, check_report

RUN = bytes(16)


def step(position: int, size: int) -> Payload:
    return StepCompleted(position=position, name="a", output=b'"' + b"x" * size + b'"')


def child(position: int, size: int) -> Payload:
    return ChildStarted(
        position=position,
        child_run_id=child_run_id(RUN, position),
        component="checkout",
        mode=ChildMode.JOIN,
        input=b'"' + b"x" * size + b'"',
    )


def question(position: int, size: int) -> Payload:
    return WaitCreated(
        position=position,
        wait_id=str(position),
        kind=WaitKind.USER,
        question="?" * size,
        options=("yes",) * min(size, limits.wait_options_max),
    )


# A sort of entry, how many of it, and how large each is.
PARTS = st.one_of(
    st.tuples(
        st.sampled_from([step, child, question]),
        st.integers(1, 2 * limits.report_entries_max),
        st.sampled_from([0, 10]),
    ),
    st.tuples(
        st.sampled_from([step, child, question]), st.integers(1, 5), st.sampled_from([1_000, 9_000])
    ),
    st.tuples(st.sampled_from([step, child]), st.integers(1, 3), st.just(900_000)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=4))
def test_every_report_is_one_that_the_engine_takes(
    parts: list[tuple[Callable[[int, int], Payload], int, int]],
) -> None:
    makers = [(make, size) for make, count, size in parts for _ in range(count)]
    added = [make(at, size) for at, (make, size) in enumerate(makers, 1)]
    queue = ReportQueue()
    for entry in added:
        queue.add(entry)
    reports = queue.take()
    for report in reports:
        check_report(report.entries)
        for kind, raw in report.entries:
            check_record(RecordKind(kind), raw)
    assert [entry for report in reports for entry in report.entries] == [*map(encode, added)]
    assert [report.sequence for report in reports] == [*range(1, len(reports) + 1)]
