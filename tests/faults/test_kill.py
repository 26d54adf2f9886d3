"""NO_LOST_ACK: what was acknowledged survives SIGKILL, and nothing is there that was not sent.

One data directory through the whole campaign. A writer is killed at a random moment, sometimes a
second one while it recovers from that, and then the directory is opened and compared with what the
writers had said. ENGINE_TEST_KILLS=N makes the campaign longer, ENGINE_TEST_SEED=N another one.
"""

from __future__ import annotations

import os
import random
import select
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from engine.config.settings import JournalSettings
from engine.journal.layout import RUN_TAG, run_key
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import open_journal
from engine.model.records import Record
from tests.faults.derived import TENANTS, record_at, run_of
from tests.faults.writer import (
    ACKNOWLEDGED,
    END_ROW,
    FRAME,
    RUNS_PER_TENANT,
    SENT,
    TRANSITION_ACKNOWLEDGED,
    TRANSITION_SENT,
    Round,
)
from tests.faults.zygote import Zygote

KILLS = int(os.environ.get("ENGINE_TEST_KILLS", "100"))
SEED = int(os.environ.get("ENGINE_TEST_SEED", "1"))

WRITES_FOR_S_MAX = 0.12
OPENS_FOR_S_MAX = 0.06
REREAD_PER_ROUND = 10
FRAMES_BYTES = 4_096 * FRAME.size


@dataclass
class RunFacts:
    """What must be, and what may be, on the disk of one run."""

    seen_end: int = 0  # found on the disk by an earlier check
    sent_end: int = 0
    acknowledged_end: int = 0
    transition_sent_end: int = 0
    transition_acknowledged_end: int = 0

    def note(self, what: bytes, end: int) -> None:
        if what == SENT:
            self.sent_end = max(self.sent_end, end)
        elif what == TRANSITION_SENT:
            self.transition_sent_end = end
        else:
            assert what in (ACKNOWLEDGED, TRANSITION_ACKNOWLEDGED)
            self.acknowledged_end = max(self.acknowledged_end, end)
            if what == TRANSITION_ACKNOWLEDGED:
                self.transition_acknowledged_end = max(self.transition_acknowledged_end, end)


class Campaign:
    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.facts = [[RunFacts() for _ in range(RUNS_PER_TENANT)] for _ in TENANTS]
        self.touched: set[tuple[int, int]] = set()
        self.acknowledgements = 0

    # ---- one writer ----

    def kill_writer(
        self, zygote: Zygote, this: Round, *, wait_for_first: bool, for_s: float
    ) -> None:
        """Start a writer, kill it after `for_s` seconds, and note everything it had said."""
        for index, number in self.touched:
            # If the writer before this one lost it, this one writes something else in its place.
            self.facts[index][number].transition_sent_end = 0
        process_id, frames = zygote.start_writer(this)
        try:
            if wait_for_first:
                self._note(os.read(frames, FRAME.size))
            deadline = time.monotonic() + for_s
            while (left_s := deadline - time.monotonic()) > 0:
                if select.select([frames], [], [], left_s)[0]:
                    self._note(os.read(frames, FRAMES_BYTES))
            zygote.kill(process_id)
            while data := os.read(frames, FRAMES_BYTES):
                self._note(data)
        finally:
            os.close(frames)

    def _note(self, data: bytes) -> None:
        # Each frame is one write, which a pipe takes whole, and reads ask for whole frames.
        for what, index, number, end in FRAME.iter_unpack(data):
            self.facts[index][number].note(what, end)
            self.touched.add((index, number))
            self.acknowledgements += what in (ACKNOWLEDGED, TRANSITION_ACKNOWLEDGED)

    # ---- the check ----

    async def check(self, chance: random.Random) -> None:
        """What the writers touched, and a few runs from their first record on."""
        async with open_journal(self.directory, JournalSettings()) as journal:
            assert set(journal.tenant_ids()) <= set(TENANTS)
            for index, tenant in enumerate(TENANTS):
                reread = set(chance.sample(range(RUNS_PER_TENANT), REREAD_PER_ROUND))
                async with journal.use(tenant) as opened:
                    for touched_index, number in self.touched:
                        if touched_index == index and number not in reread:
                            self._check_run(opened, index, number, from_start=False)
                    for number in reread:
                        self._check_run(opened, index, number, from_start=True)
        self.touched.clear()

    async def check_everything(self) -> None:
        async with open_journal(self.directory, JournalSettings()) as journal:
            for index, tenant in enumerate(TENANTS):
                async with journal.use(tenant) as opened:
                    for number in range(RUNS_PER_TENANT):
                        self._check_run(opened, index, number, from_start=True)
                    self._check_nothing_else(opened, index)

    def _check_run(
        self, opened: TenantJournal, index: int, number: int, *, from_start: bool
    ) -> None:
        facts = self.facts[index][number]
        run = run_of(self.seed, TENANTS[index], number)
        segment = opened.open_segment(run)
        end = segment.durable_offset
        where = f"run {number} of tenant {TENANTS[index]}, which ends at {end}"
        assert segment.first_offset == 0, where
        assert end >= facts.acknowledged_end, f"lost: {where}, {facts}"
        assert end >= facts.seen_end, f"was there and is gone: {where}, {facts}"
        assert end <= max(facts.sent_end, facts.seen_end), f"never sent: {where}, {facts}"
        offset = 0 if from_start else facts.seen_end
        while offset < end:
            page = segment.read(offset)
            for record in page:
                new = record_at(self.seed, run, offset)
                expected = Record(offset, new.kind, new.timestamp_us, new.payload, new.flags)
                assert record == expected, f"other bytes at {offset}: {where}"
                offset += 1
            assert page, f"a gap at {offset}: {where}"
        self._check_row(opened.row(run_key(run)), end, facts, where)
        facts.seen_end = facts.sent_end = end
        facts.transition_sent_end = 0

    def _check_row(self, row: bytes | None, end: int, facts: RunFacts, where: str) -> None:
        """A transition's row came and stayed with its records."""
        row_end = 0 if row is None else END_ROW.unpack(row)[0]
        assert facts.transition_acknowledged_end <= row_end <= end, (
            f"row {row_end}: {where} {facts}"
        )
        if facts.transition_sent_end <= end:
            assert row_end >= facts.transition_sent_end, f"row {row_end}: {where}, {facts}"
        facts.transition_acknowledged_end = row_end

    def _check_nothing_else(self, opened: TenantJournal, index: int) -> None:
        sent = {
            run_of(self.seed, TENANTS[index], number)
            for number, facts in enumerate(self.facts[index])
            if facts.seen_end
        }
        assert set(opened.runs()) == sent
        assert {key.removeprefix(RUN_TAG) for key, _ in opened.rows(RUN_TAG)} <= sent


def test_no_lost_ack(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "data", SEED)
    chance = random.Random(SEED)
    starts = 0
    with Zygote() as zygote:
        for number in range(KILLS):
            for recovering in [False, True] if chance.random() < 0.3 else [False]:
                # Now and then the writer is killed before it can write, when the directory is new
                # and when it has the leavings of the writer before it to recover.
                early = recovering or chance.random() < 0.1
                campaign.kill_writer(
                    zygote,
                    Round(campaign.directory, SEED, starts),
                    wait_for_first=not early,
                    for_s=chance.uniform(0, OPENS_FOR_S_MAX if early else WRITES_FOR_S_MAX),
                )
                starts += 1
            try:
                trio.run(campaign.check, chance)
            except BaseException as error:
                error.add_note(f"ENGINE_TEST_SEED={SEED}, after kill {number}")
                raise
    trio.run(campaign.check_everything)
    assert campaign.acknowledgements > 100 * KILLS, "the writers hardly wrote"
