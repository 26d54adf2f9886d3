"""`engine archive rehydrate`: a fresh data directory beside the archive of an earlier one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio
from click.testing import CliRunner, Result

from engine.cli.main import engine
from engine.cli.rehydrating import TenantRehydrated
from engine.journal.directory import DataDirectory
from tests.archive.house import open_house
from tests.archive.lives import write_runs

RUNS = 5


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with the runs of one tenant, whose data directory is lost."""
    folder = tmp_path / "bucket"

    async def fill() -> None:
        async with open_house(tmp_path / "lost", url=str(folder)) as house:
            await write_runs(house.journal, RUNS)
            await house.archive.flush_now(house.tenant.tenant_id)

    trio.run(fill)
    monkeypatch.setenv("ENGINE_ARCHIVE__URL", str(folder))
    return folder


def rehydrate(data_dir: Path, *words: str) -> Result:
    arguments = ["archive", "rehydrate", "--data-dir", str(data_dir), *words]
    return CliRunner().invoke(engine, arguments, catch_exceptions=False)


def test_a_fresh_directory_learns_what_there_is(tmp_path: Path, bucket: Path) -> None:
    result = rehydrate(tmp_path / "data")
    assert (result.exit_code, result.output) == (0, "acme: 1 more batches with 5 runs\n")
    again = rehydrate(tmp_path / "data", "--tenant", "acme", "--json")
    assert msgspec.json.decode(again.stdout, type=list[TenantRehydrated]) == [
        TenantRehydrated(tenant_id="acme", batches=0, runs=0, problems=())
    ]


def test_an_empty_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_ARCHIVE__URL", str(tmp_path / "empty"))
    result = rehydrate(tmp_path / "data")
    assert (result.exit_code, result.output) == (0, "there is nothing in the archive\n")


def test_what_cannot_be_used_is_named(tmp_path: Path, bucket: Path) -> None:
    (damaged,) = bucket.rglob("steps-*.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-20])
    result = rehydrate(tmp_path / "data")
    assert result.exit_code == 1
    assert damaged.name in result.stderr
    assert result.stdout == "acme: 0 more batches with 0 runs\n"


def test_beside_a_runtime_that_is_up(tmp_path: Path, bucket: Path) -> None:
    held = DataDirectory(tmp_path / "data")
    try:
        result = rehydrate(tmp_path / "data")
    finally:
        held.close()
    assert result.exit_code == 1
    assert result.output.startswith("error [directory_in_use]: ")
    assert "Stop that runtime first" in result.output


def test_a_tenant_that_cannot_be_one(tmp_path: Path, bucket: Path) -> None:
    result = rehydrate(tmp_path / "data", "--tenant", "../acme")
    assert result.exit_code == 2
    assert "error [invalid_name]" in result.output
