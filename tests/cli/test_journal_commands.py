"""`engine journal` as an operator meets it: a real process, its exit code, and what it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import engine
from engine.base.ids import run_id_text
from engine.journal.upkeep.inspect import VerifyReport, verify
from tests.faults.damage import flip, log_of
from tests.faults.processes import ROOT
from tests.journal.harness import ACME, OTHER, journal_at, run_number
from tests.journal.sound import Sound, sound_directory

RUN = run_id_text(run_number(1))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("origin")
    return trio.run(lambda: sound_directory(folder, in_tables=0.5))


@pytest.fixture
def sound(origin: Sound, tmp_path: Path) -> Sound:
    return origin._replace(path=shutil.copytree(origin.path, tmp_path / "data"))


@pytest.fixture
def damaged(sound: Sound) -> Sound:
    log = log_of(sound.store())
    flip(log, log.stat().st_size // 2)
    return sound


def run(
    *arguments: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "engine.cli.main", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in result.stderr
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    return result


def journal(
    command: str, sound: Sound, *arguments: str | Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    return run("journal", command, *arguments, "--data-dir", sound.path, code=code)


def as_json(result: subprocess.CompletedProcess[str]) -> Any:
    return msgspec.json.decode(result.stdout)


# ---- the command itself ----


def test_version_and_help() -> None:
    assert engine.__version__ in run("--version").stdout
    text = run("journal", "--help").stdout
    for command in ("verify", "stats", "dump", "backup", "restore", "salvage"):
        assert command in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["journal", "nothing"],
        ["journal", "verify", "--nothing"],
        ["journal", "backup"],
        ["journal", "salvage"],
        ["journal", "salvage", "acme", "--system"],
        ["journal", "dump", "--run", RUN],
        ["journal", "dump", "--from-offset", "3"],
    ],
)
def test_a_command_that_is_none(arguments: list[str]) -> None:
    assert run(*arguments, code=2).stderr.startswith("Usage: ")


# ---- verify ----


def test_verify(sound: Sound) -> None:
    result = journal("verify", sound)
    assert result.stderr == ""
    for word in ("acme", "other", "(system)", "sound"):
        assert word in result.stdout
    report = msgspec.json.decode(journal("verify", sound, "--json").stdout, type=VerifyReport)
    assert report == verify(sound.path)
    assert report.is_sound


def test_verify_says_what_is_damaged(damaged: Sound) -> None:
    log = str(log_of(damaged.store()))
    result = journal("verify", damaged, code=1)
    assert log in result.stdout
    assert "1 problems" in result.stdout
    report = as_json(journal("verify", damaged, "--json", code=1))
    assert [store["is_sound"] for store in report["stores"]] == [True, False, True]
    assert report["stores"][1]["problems"][0]["file"] == log
    assert "sound" in journal("verify", damaged, "--tenant", "other").stdout


def test_the_data_directory_from_the_environment(sound: Sound) -> None:
    run("journal", "verify", ENGINE_DATA_DIR=str(sound.path))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--data-dir", "/nothing/here"], 2, "error [invalid_settings]: /nothing/here is not a"),
        (["--tenant", "../acme"], 2, "error [invalid_name]: tenant_id '../acme' is not valid"),
        (["--tenant", "nobody"], 2, "error [tenant_unknown]: tenant 'nobody'"),
    ],
)
def test_what_is_not_there(sound: Sound, arguments: list[str], code: int, says: str) -> None:
    environment = {"ENGINE_DATA_DIR": str(sound.path)}
    result = run("journal", "verify", *arguments, code=code, **environment)
    assert result.stderr.startswith(says)
    assert result.stdout == ""


# ---- stats and dump ----


def test_stats(sound: Sound) -> None:
    assert "acme" in journal("stats", sound).stdout
    found = as_json(journal("stats", sound, "--json", "--tenant", "acme"))
    assert [store["tenant_id"] for store in found] == ["acme"]
    assert found[0]["disk_bytes"] > 0


def test_stats_of_a_damaged_store(damaged: Sound) -> None:
    assert "is damaged" in journal("stats", damaged, code=1).stdout


def test_dump(sound: Sound) -> None:
    lines = journal("dump", sound, "--tenant", "acme", "--run", RUN).stdout.splitlines()
    assert len(lines) == len(sound.of_run(ACME, run_number(1)))
    assert lines[0].startswith(f"acme {RUN}      0 2026-01-01T00:00:0")
    assert " RUN_ACCEPTED " in lines[0]
    assert "\x1b" not in "".join(lines)
    records = [
        msgspec.json.decode(line) for line in journal("dump", sound, "--json").stdout.splitlines()
    ]
    assert len(records) == len(sound.acknowledged[ACME]) + len(sound.acknowledged[OTHER])
    assert records[0]["kind"] == "RUN_ACCEPTED"
    assert "component" in records[0]["payload"]
    last = journal(
        "dump", sound, "--tenant", "acme", "--run", RUN, "--from-offset", str(len(lines) - 1)
    )
    assert last.stdout.splitlines() == lines[-1:]


def test_dump_into_a_pipe_that_is_closed(sound: Sound) -> None:
    command = f"{sys.executable} -m engine.cli.main journal dump --data-dir {sound.path} | head -1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False)
    assert result.stdout.count(b"\n") == 1
    assert b"Traceback" not in result.stderr


def test_dump_of_a_damaged_store(damaged: Sound) -> None:
    result = journal("dump", damaged, "--tenant", "acme", code=1)
    assert result.stderr.startswith("error [storage_damaged]: ")
    assert "engine journal salvage acme" in result.stderr


# ---- backup and restore ----


def test_backup_and_restore(sound: Sound, tmp_path: Path) -> None:
    before = [store.records for store in verify(sound.path).stores]
    result = journal("backup", sound, tmp_path / "backup")
    assert "acme" in result.stdout
    restored = sound._replace(path=tmp_path / "restored")
    assert "sound" in journal("restore", restored, tmp_path / "backup").stdout
    assert [store.records for store in verify(restored.path).stores] == before
    again = journal("restore", restored, tmp_path / "backup", code=1)
    assert again.stderr.startswith("error [backup_invalid]: ")
    third = sound._replace(path=tmp_path / "third")
    assert as_json(journal("restore", third, tmp_path / "backup", "--json"))["is_sound"]


def test_backup_with_a_damaged_tenant(damaged: Sound, tmp_path: Path) -> None:
    result = journal("backup", damaged, tmp_path / "backup", code=1)
    assert "left out: acme" in result.stdout
    manifest = as_json(journal("backup", damaged, tmp_path / "second", "--json", code=1))
    assert [store["tenant_id"] for store in manifest["stores"]] == ["other", None]


async def test_backup_and_salvage_while_a_runtime_is_up(sound: Sound, tmp_path: Path) -> None:
    async with journal_at(sound.path):
        for command in (["backup", tmp_path / "backup"], ["salvage", "acme"]):
            result = await trio.to_thread.run_sync(
                lambda command=command: journal(command[0], sound, command[1], code=1)
            )
            assert result.stderr.startswith("error [directory_in_use]: ")
            assert f"process {os.getpid()}" in result.stderr
        verified = await trio.to_thread.run_sync(lambda: journal("verify", sound))
        assert "sound" in verified.stdout
    assert not (tmp_path / "backup").exists()


def test_backup_of_nothing_makes_nothing(tmp_path: Path) -> None:
    nothing = Sound(tmp_path / "nothing", {})
    result = journal("backup", nothing, tmp_path / "backup", code=2)
    assert result.stderr.startswith("error [invalid_settings]: ")
    assert list(tmp_path.iterdir()) == []


# ---- salvage ----


def test_salvage(damaged: Sound) -> None:
    result = journal("salvage", damaged, "acme", code=1)
    assert "the damaged store is now" in result.stdout
    assert "damaged-1" in result.stdout
    assert "cannot be told from whole ones" in result.stdout
    journal("verify", damaged)
    assert "is sound: nothing was changed" in journal("salvage", damaged, "acme").stdout
    report = as_json(journal("salvage", damaged, "--tenant", "acme", "--json"))
    assert report["damaged_store"] is None


def test_salvage_names_the_runs_that_were_cut(sound: Sound) -> None:
    log = log_of(sound.store())
    flip(log, 100)
    result = journal("salvage", sound, "acme", code=1)
    assert "run 00000000-" in result.stdout
    assert "records behind the gap" in result.stdout


def test_a_damaged_system_store(sound: Sound) -> None:
    system = sound.path / "system" / "system.rocksdb"
    (system / "CURRENT").unlink()
    (system / "000099.sst").touch()
    backup = journal("backup", sound, sound.path / "backup", code=1)
    assert backup.stderr.startswith("error [storage_damaged]: ")
    journal("salvage", sound, "--system")  # no record and no row was in what was damaged
    journal("verify", sound)
