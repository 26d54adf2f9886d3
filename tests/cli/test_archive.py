"""`engine archive` over HTTP: what an operator sees, and the exit codes that scripts go by."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from engine.cli import archive
from engine.model.query import ArchiveFlushed, ArchiveStatus, ArchiveVerified
from tests.cli.running import PROGRAM, ROOT
from tests.cli.served import Served, serving
from tests.gateway.fake_tiers import BACKFILL_RUNS


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        found.start_three()
        yield found


def facts(text: str) -> dict[str, str]:
    """The lines of a table without borders: a name, two or more spaces, what is said."""
    lines = (line.split("  ", 1) for line in text.splitlines())
    return {name: said.strip() for name, said in lines}


def test_status_before_and_after_a_flush(served: Served) -> None:
    before = facts(served.said("archive", "status"))
    assert before["archive"] == "s3://engine/runs"
    assert before["store"] == "reached"
    assert before["archived"] == "0 runs in 0 batches, 0 bytes"
    assert before["waiting"] == "3 ended runs, the oldest for 1 min 30 s"
    assert before["last flush"] == "never"
    assert served.said("archive", "flush") == "3 runs in 1 batches, 300 bytes, in 3 ms\n"
    after = facts(served.said("archive", "status"))
    assert after["archived"] == "3 runs in 1 batches, 300 bytes"
    assert after["waiting"] == "0 ended runs"
    assert served.said("archive", "flush") == "nothing was waiting\n"


def test_the_same_as_json(served: Served) -> None:
    flushed = msgspec.json.decode(served.said("archive", "flush", "--json"), type=ArchiveFlushed)
    assert flushed.runs == 3
    status = msgspec.json.decode(served.said("archive", "status", "--json"), type=ArchiveStatus)
    assert status.archived_runs == 3
    verified = msgspec.json.decode(served.said("archive", "verify", "--json"), type=ArchiveVerified)
    assert verified == ArchiveVerified(batches=1, runs=3)


def test_a_store_that_is_down(served: Served) -> None:
    served.handle.tiers.is_store_down = True
    found = facts(served.said("archive", "status", exit_code=1))
    assert found["store"] == "cannot be reached"
    assert found["last error"] == "connection refused"
    text = served.said("archive", "flush", exit_code=1)
    assert text.startswith("error [archive_unreachable]: the store does not answer")


def test_catching_up_is_shown_and_can_be_watched(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "WATCH_EVERY_S", 0)
    served.handle.tiers.backfill_left = BACKFILL_RUNS
    found = facts(served.said("archive", "status"))
    assert found["catching up"] == "1 of 10 runs; engine archive status --watch"
    text = served.said("archive", "status", "--watch", "--json")
    status = msgspec.json.decode(text.splitlines()[-1], type=ArchiveStatus)
    assert (status.backfilling, status.backfill_done) == (False, BACKFILL_RUNS)
    assert "catching up" not in facts(served.said("archive", "status", "--watch"))


def test_a_terminal_shows_a_bar_while_it_catches_up(served: Served) -> None:
    served.handle.tiers.backfill_left = 3
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "archive", "status", "--watch", "--url", served.url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=other_end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        text=True,
    ) as process:
        os.close(other_end)
        said = read_all(terminal)
        assert process.stdout is not None
        assert facts(process.stdout.read())["store"] == "reached"
    assert process.returncode == 0
    assert "runs archived" in said
    assert re.search(r"8\D{1,20}10", said), "so many of so many"


def read_all(terminal: int) -> str:
    """Until the other end is closed, which a terminal tells as an error."""
    said = b""
    with open(terminal, "rb", buffering=0) as stream:
        try:
            while piece := stream.read(4_096):
                said += piece
        except OSError:
            pass
    return said.decode()


def test_watching_ends_where_nothing_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "WATCH_EVERY_S", 0)
    served.handle.tiers.backfill_left = BACKFILL_RUNS
    served.handle.tiers.is_store_down = True
    result = served.invoke("archive", "status", "--watch")
    assert result.exit_code == 1
    found = facts(result.stdout)
    assert found["catching up"].startswith("1 of 10 runs")


def test_verify_names_what_is_wrong(served: Served) -> None:
    assert served.said("archive", "verify") == "as they must be: 1 batches with 0 runs\n"
    served.handle.tiers.problems = ("a.parquet is missing", "b.parquet is \x1b[2Jshort")
    result = served.invoke("archive", "verify")
    assert result.exit_code == 1
    assert result.stderr == "a.parquet is missing\nb.parquet is  [2Jshort\n"
    assert result.stdout == "2 problems in 1 batches with 0 runs\n"
