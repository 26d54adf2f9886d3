"""`engine tenants` on real data directories with a real archive beside them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio
from click.testing import CliRunner, Result

from engine.cli.deleting import TenantDeleted, TenantFound
from engine.cli.main import engine
from engine.journal.directory import DataDirectory
from engine.journal.layout import tenant_path
from tests.archive.house import ACME, open_house
from tests.archive.lives import write_runs


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Of one tenant with runs in both tiers; the archive is in the directory itself."""

    async def fill() -> None:
        async with open_house(tmp_path / "data") as house:
            await write_runs(house.journal, 3)
            await house.archive.flush_now(ACME)
            await write_runs(house.journal, 2)

    trio.run(fill)
    return tmp_path / "data"


def tenants(data_dir: Path, *words: str, answer: str | None = None) -> Result:
    arguments = ["tenants", *words, "--data-dir", str(data_dir)]
    return CliRunner().invoke(engine, arguments, input=answer, catch_exceptions=False)


def objects(data_dir: Path) -> list[Path]:
    return list((data_dir / "archive").rglob("*.parquet"))


def test_a_tenant_is_deleted_with_everything(data_dir: Path) -> None:
    assert tenants(data_dir, "ls").output == "acme: journal and archive\n"
    count = len(objects(data_dir))
    result = tenants(data_dir, "delete", "acme", "--yes", "--json")
    assert msgspec.json.decode(result.stdout, type=TenantDeleted) == TenantDeleted(
        tenant_id="acme", had_journal=True, objects=count
    )
    assert count > 0
    assert objects(data_dir) == []
    assert not tenant_path(data_dir, ACME).exists()
    assert tenants(data_dir, "ls").output == "there are no tenants yet\n"


def test_without_a_yes_nothing_is_deleted(data_dir: Path) -> None:
    assert tenants(data_dir, "delete", "acme", answer="n\n").exit_code == 1
    listed = tenants(data_dir, "ls", "--json")
    assert msgspec.json.decode(listed.stdout, type=list[TenantFound]) == [
        TenantFound(tenant_id="acme", in_journal=True, in_archive=True)
    ]
    assert tenants(data_dir, "delete", "acme", answer="y\n").exit_code == 0
    assert objects(data_dir) == []


def test_what_a_crash_left_in_the_archive_is_deleted_by_doing_it_again(data_dir: Path) -> None:
    kept = {path: path.read_bytes() for path in objects(data_dir)}
    assert tenants(data_dir, "delete", "acme", "--yes").exit_code == 0
    for path, content in kept.items():  # as if it had stopped right after the journal
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert tenants(data_dir, "ls").output == "acme: archive\n"
    result = tenants(data_dir, "delete", "acme", "--yes")
    assert result.output == f"acme: {len(kept)} objects of the archive deleted\n"
    assert objects(data_dir) == []


def test_an_unknown_tenant_and_a_running_runtime_are_refused(data_dir: Path) -> None:
    unknown = tenants(data_dir, "delete", "acmee", "--yes")
    assert unknown.exit_code == 2
    assert "engine tenants ls" in unknown.output
    held = DataDirectory(data_dir)
    try:
        refused = tenants(data_dir, "delete", "acme", "--yes")
    finally:
        held.close()
    assert refused.exit_code == 1
    assert "Stop that runtime first" in refused.output
    assert objects(data_dir)
