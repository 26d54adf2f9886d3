"""The example notebook reads what the engine has archived, in a process that cannot import the
engine: from a folder and from a bucket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extension_httpfs
import pytest
import trio

from tests.archive.house import open_house
from tests.archive.lives import NOW_US, failed, new_ids, write_run, write_runs
from tests.cli.running import ROOT
from tests.cli.s3_server import s3_server

# Only DuckDB may be had; importing what is None here fails as if it were not installed.
ALONE = """
import runpy, sys
for name in ("engine", "pyarrow", "minio", "httpx", "msgspec"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMPLETED, FAILED = 3, 1


def fill(data_dir: Path, **settings: Any) -> None:
    """An archive with some runs of a tenant."""

    async def write() -> None:
        async with open_house(data_dir, **settings) as house:
            await write_runs(house.journal, COMPLETED)
            await write_run(house.journal, new_ids(NOW_US + 5)(), failed())
            await house.archive.flush_now(house.tenant.tenant_id)

    trio.run(write)


def notebook(archive: str, folder: Path, **environment: str) -> list[list[str]]:
    """What it prints, as the cells of all tables' rows."""
    result = subprocess.run(
        [sys.executable, "-c", ALONE, str(ROOT / "examples" / "notebook.py"), archive],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def check(rows: list[list[str]]) -> None:
    runs = [int(row[2]) for row in rows if row[0].startswith("20")]
    assert sum(runs) == COMPLETED + FAILED, "each run counts once"
    (wrong,) = (row for row in rows if row[0] == "card_declined")
    assert int(wrong[2]) == FAILED


def test_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    check(notebook(f"{tmp_path}/data/archive/engine", tmp_path))


def test_a_run_in_two_files_counts_once(tmp_path: Path) -> None:
    """As it is for some minutes when small files are put together."""
    fill(tmp_path / "data")
    for file in list((tmp_path / "data" / "archive").rglob("*.parquet")):
        shutil.copy(file, file.with_name(f"{file.stem}-again.parquet"))
    check(notebook(f"{tmp_path}/data/archive/engine/", tmp_path))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory where DuckDB finds its extension without the network."""
    (platform,) = duckdb.sql("PRAGMA platform").fetchone() or ("",)
    folder = Path("extensions", f"v{duckdb.__version__}")
    source = Path(duckdb_extension_httpfs.__file__).parent / folder / "httpfs.duckdb_extension"
    target = tmp_path / "home" / ".duckdb" / folder / platform
    target.mkdir(parents=True)
    shutil.copy(source, target)
    return tmp_path / "home"


def test_a_bucket(tmp_path: Path, home: Path) -> None:
    with s3_server() as url:
        keys = {"access_key": "key", "secret_key": "OpenSesame"}
        fill(tmp_path / "data", url="s3://runs", endpoint=url, create_bucket=True, **keys)
        rows = notebook(
            "s3://runs/engine",
            tmp_path,
            HOME=str(home),
            AWS_ENDPOINT_URL=url,
            AWS_ACCESS_KEY_ID=keys["access_key"],
            AWS_SECRET_ACCESS_KEY=keys["secret_key"],
        )
    check(rows)
