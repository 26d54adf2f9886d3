"""Writes the files of `files/`: `python -m tests.archive.old_files NAME` adds those of the present
schema under a name. Run it before a change of the schema; what is there is never written anew.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import trio

from engine.archive.rows.schema import DATA_SETS
from tests.archive.house import ACME, open_house
from tests.archive.lives import NOW_US, completed, failed, new_ids, write_run

FILES = Path(__file__).with_name("files")

# What the first files had, before anything was added: the names that the design began with.
FIRST_COLUMNS = {
    "runs": """run_id project_id deployment_id component kind status attempt created_ms started_ms
        completed_ms duration_ms steps_completed steps_failed records model tokens_in tokens_out
        cost_usd error_code error_message""",
    "steps": "run_id position kind name key status attempt started_ms finished_ms",
    "journal": "run_id offset kind flags timestamp_us payload",
}


async def write(name: str) -> None:
    target = FILES / name
    assert not target.exists(), f"{target} is there: older files stay as they are"
    ids = new_ids(NOW_US - 60_000_000)
    with tempfile.TemporaryDirectory() as scratch:
        async with open_house(Path(scratch)) as house:
            for number in range(3):
                at_us = NOW_US + number * 1_000_000
                await write_run(house.journal, ids(), completed(at_us, tags={"from": name}))
                await write_run(house.journal, ids(), failed(at_us))
            await house.archive.flush_now(ACME)
        shutil.copytree(Path(scratch) / "archive" / "engine", target / "engine")
    if name == "first":
        keep_first_columns(target)


def keep_first_columns(target: Path) -> None:
    for data_set in DATA_SETS:
        (file,) = (target / "engine" / data_set).rglob("*.parquet")
        table = pq.read_table(file, columns=FIRST_COLUMNS[data_set].split(), partitioning=None)
        pq.write_table(table.replace_schema_metadata(None), file, compression="zstd")


if __name__ == "__main__":
    trio.run(write, sys.argv[1])
