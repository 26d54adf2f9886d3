"""Files written by older schemas, and by the present one, are one archive."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from engine.archive.rows.schema import DATA_SETS
from engine.base.ids import parse_run_id
from tests.archive.house import ACME, DAY_US, HOUR_US, open_house, seen
from tests.archive.lives import NOW_US, write_runs
from tests.archive.old_files import FILES

NAMES = sorted(path.name for path in FILES.iterdir())


def bucket_with(tmp_path: Path, names: list[str]) -> Path:
    bucket = tmp_path / "bucket"
    for name in names:
        shutil.copytree(FILES / name, bucket, dirs_exist_ok=True)
    return bucket


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data_set", DATA_SETS)
def test_columns_are_only_added(name: str, data_set: str) -> None:
    """Never renamed, moved behind others or given another type."""
    (file,) = (FILES / name / "engine" / data_set).rglob("*.parquet")
    old = pq.read_schema(file)
    present = DATA_SETS[data_set]
    assert [column for column in present.names if column in old.names] == old.names
    for column in old.names:
        assert old.field(column).type.equals(present.field(column).type), column


async def test_old_and_new_files_are_one_archive(tmp_path: Path) -> None:
    bucket = bucket_with(tmp_path, NAMES)
    async with open_house(tmp_path / "data", url=str(bucket)) as house:
        written = await write_runs(house.journal, 3, at_us=NOW_US + HOUR_US)
        await house.archive.flush_now(ACME)
        runs = seen(house.tenant)
        assert len(runs) == 6 * len(NAMES) + len(written)
        for text in runs:
            found = await house.archive.lookup(ACME, parse_run_id(text))
            assert found is not None
            assert len(found.records) == 6
        assert (await house.archive.verify(ACME)).problems == ()


async def test_compaction_gives_old_rows_the_columns_of_today(tmp_path: Path) -> None:
    bucket = bucket_with(tmp_path, NAMES)
    async with open_house(tmp_path / "data", url=str(bucket)) as house:
        await house.archive.rehydrate(ACME)
        before = seen(house.tenant)
        house.clock.advance_us(2 * DAY_US)
        assert await house.archive.compact_now(ACME) == len(NAMES)
        (file,) = house.tenant.snapshot().run_files
        assert pq.read_schema(file).names == DATA_SETS["runs"].names
        assert seen(house.tenant) == before
        tags = pq.read_table(file, partitioning=None).column("tags").to_pylist()
        assert tags.count(None) == 6 + 3 * (len(NAMES) - 1)
        assert (await house.archive.verify(ACME)).problems == ()


def test_duckdb_alone_reads_the_bucket(tmp_path: Path) -> None:
    bucket = bucket_with(tmp_path, NAMES)
    with duckdb.connect() as database:
        found = database.execute(
            """SELECT tenant, day::VARCHAR, status, count(*), count(error_signature)
               FROM read_parquet(?, union_by_name = true, hive_partitioning = true)
               GROUP BY ALL ORDER BY ALL""",
            [f"{bucket}/engine/runs/**/*.parquet"],
        ).fetchall()
    count = 3 * len(NAMES)
    assert found == [
        ("acme", "2026-01-01", "COMPLETED", count, 0),
        ("acme", "2026-01-01", "FAILED", count, count - 3),
    ]
