"""Kills a process at every step between "ended" and "compacted away", one after the other.

`python -m tests.archive.crash_steps FOLDER` plays the same story again and again, in a process that
dies (SIGKILL) when it comes to a step for the first time, and then for a later one. After each,
another process opens the directory: every run must be there exactly once, with its records; then it
plays the story to its end, and nothing may be left over. All are forks of this one, which has
imported everything and opened nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from engine.archive.batches import BatchState
from engine.archive.rows.schema import DATA_SETS
from engine.archive.steps import Step, go_on
from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.ids import RunId, parse_run_id, run_id_text
from engine.journal.layout import open_run_key, run_key
from tests.archive.house import ACME, DAY_US, HOUR_US, House, open_house, seen
from tests.archive.lives import NOW_US, Life, completed, encoded, new_ids, write_run
from tests.archive.test_flow import bytes_of
from tests.faults.processes import in_child

RUNS_PER_BATCH = 4
# So many become one while their day still grows, and that one and the last when it is over.
FAN_IN = 3
BATCHES = FAN_IN + 1
RUNS_PER_DELETION = 3  # so that the hot copies of a batch go in several writes
GRACE_S = 600


def times_of(step: Step) -> tuple[int, ...]:
    """At which time of coming to a step the process dies."""
    if os.environ.get("ENGINE_TEST_CRASH_POINTS") == "all":
        return (1, 2, 3)
    # Compaction has two parts: of the day that grows, and of the day that is over.
    return (1, 2) if list(Step).index(step) >= list(Step).index(Step.COMPACTION_PLANNED) else (1,)


def ids() -> tuple[list[list[tuple[RunId, int]]], RunId]:
    """The runs of each batch, with the moments of their ends, and a run that stays open. The same
    in every process."""
    factory = new_ids(NOW_US - 60_000_000)
    plain = [
        [
            (_fixed(factory(), batch * 100 + number), NOW_US + batch * HOUR_US + number * 1_000)
            for number in range(RUNS_PER_BATCH)
        ]
        for batch in range(BATCHES)
    ]
    return plain, _fixed(factory(), 999)


def _fixed(run: RunId, number: int) -> RunId:
    """Without chance in it."""
    return RunId(run[:8] + number.to_bytes(8, "big"))


async def play(folder: Path, on_step: Callable[[Step], None]) -> None:
    """Everything that happens to runs; whatever of it has happened before is not done again."""
    batches, open_run = ids()
    clock = ManualClock(NOW_US + 6 * HOUR_US)
    async with open_house(
        folder, clock, on_step=on_step, hot_retention_s=0, replaced_grace_s=GRACE_S
    ) as house:
        await write_once(house, open_run, completed()[:-1])
        for batch in batches:
            for run, at_us in batch:
                await write_once(house, run, completed(at_us, output=run.hex().encode()))
            await house.archive.flush_now(ACME)
        await house.archive.retain_now(ACME)
        await house.archive.compact_now(ACME)
        clock.advance_us(DAY_US)
        await house.archive.compact_now(ACME)
        clock.advance_us(2 * GRACE_S * 1_000_000)
        await house.archive.retain_now(ACME)


async def write_once(house: House, run: RunId, life: Life) -> None:
    known = house.journal.row(open_run_key(run)) or house.journal.row(run_key(run))
    if known is None and await house.archive.lookup(ACME, run) is None:
        await write_run(house.journal, run, life)


async def check(folder: Path, *, whole: bool) -> None:
    batches, open_run = ids()
    async with open_house(folder, ManualClock(NOW_US + 7 * HOUR_US)) as house:
        found = seen(house.tenant)
        assert len(found) == len(set(found)), f"a run is seen twice: {found}"
        everyone = {run_id_text(run): (run, at_us) for batch in batches for run, at_us in batch}
        missing = (set(everyone) | {run_id_text(open_run)}) - set(found)
        # Those that had not been written when it died are a tail of the story.
        written = [text for text in everyone if text in found]
        assert written == list(everyone)[: len(written)], f"runs are missing: {missing}"
        assert not (whole and missing)
        for text in written:
            await check_run(house, text, everyone[text][1])
        verified = await house.archive.verify(ACME)
        assert verified.problems == (), verified.problems
        if whole:
            check_nothing_is_left(house)


async def check_run(house: House, text: str, at_us: int) -> None:
    run = parse_run_id(text)
    expected = encoded(completed(at_us, output=run.hex().encode()))
    hot = house.journal.open_segment(run).read()
    assert not hot or bytes_of(hot) == expected
    archived = await house.archive.lookup(ACME, run)
    assert archived is not None or hot, f"{text} cannot be read"
    assert archived is None or bytes_of(archived.records) == expected


def check_nothing_is_left(house: House) -> None:
    assert house.tenant.manifest.of_state(BatchState.PLANNED) == []
    assert house.tenant.manifest.of_state(BatchState.RETIRED) == []
    (kept,) = house.tenant.manifest.of_state(BatchState.ACKNOWLEDGED)
    stored = {found.key for name in DATA_SETS for found in house.archive.store.list(f"{name}/")}
    assert stored == set(house.tenant.keys_of(kept))
    assert not list(house.journal.rows(b"f"))
    assert not list(house.journal.rows(b"r"))
    assert not list((house.data_dir / "outgoing").glob("*/*"))


def dying_at(step: Step, times: int) -> Callable[[Step], None]:
    left = [times]

    def die(reached: Step) -> None:
        if reached is step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die


def recover(folder: Path) -> None:
    trio.run(lambda: check(folder, whole=False))
    trio.run(play, folder, go_on)
    trio.run(lambda: check(folder, whole=True))


def main(folder: Path) -> None:
    limits.archive_compacted_fan_in = FAN_IN  # type: ignore[misc]
    limits.archive_delete_runs_max = RUNS_PER_DELETION  # type: ignore[misc]
    kills = 0
    for step in Step:
        for times in times_of(step):
            here = folder / f"{step}-{times}"
            code = in_child(trio.run, play, here, dying_at(step, times))
            assert code in (0, -signal.SIGKILL), f"{step}: exit {code}"
            assert times > 1 or code == -signal.SIGKILL, f"it never came to {step}"
            kills += code == -signal.SIGKILL
            assert in_child(recover, here) == 0, f"killed at {step}, time {times}"
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
