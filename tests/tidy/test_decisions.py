"""Every decision record has its three parts, and a number of its own."""

from __future__ import annotations

import re

from tests.tidy.sources import ROOT

HEADINGS = ["Context", "Choice", "Cost"]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_every_record_says_context_choice_and_cost() -> None:
    incomplete = {
        record.name: headings
        for record in RECORDS
        if (headings := re.findall(r"^## (.+)$", record.read_text(encoding="utf-8"), re.MULTILINE))
        != HEADINGS
    }
    assert not incomplete, f"the headings of a record are {HEADINGS}: {incomplete}"


def test_the_numbers_run_from_one_without_a_gap() -> None:
    assert RECORDS
    numbers = [record.name[:5] for record in RECORDS]
    assert numbers == [f"{number:04}-" for number in range(1, len(RECORDS) + 1)]
