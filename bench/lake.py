"""A month of archived runs as objects in a bucket's layout, for benchmarks that read.

The files are written by the archive's own writer. What the tenants have is the same but for whose
it is: one is made, the others are links to it, since a query reads one tenant's files anyway.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from engine.archive.files.parquet import BatchWriter
from engine.archive.rows.schema import JOURNAL, RUNS, STEPS

DAY_MS = 86_400_000
MONTH_MS = 1_767_225_600_000  # 2026-01-01
DAYS = 30
STEPS_PER_RUN = 3
RECORDS_PER_RUN = 8
MODELS = ("claude-opus", "gpt-large", "small")


class Month(NamedTuple):
    bucket: Path
    run_ids: list[str]  # of one tenant
    bytes: int  # of one tenant


def write_month(bucket: Path, *, tenants: int, runs_per_day: int) -> Month:
    run_ids: list[str] = []
    size = 0
    shape = _Day(runs_per_day)
    for day in range(DAYS):
        tables = shape.tables(MONTH_MS + day * DAY_MS)
        run_ids += tables["runs"].column("run_id").to_pylist()
        size += _write(bucket, day, tables, tenants)
    return Month(bucket, run_ids, size)


def tenant_name(number: int) -> str:
    return f"tenant-{number}"


def _write(bucket: Path, day: int, tables: dict[str, pa.Table], tenants: int) -> int:
    ids = tables["runs"].column("run_id")
    ended = tables["runs"].column("completed_ms")
    facts = {
        "from_ms": pc.min(ended).as_py(),
        "to_ms": pc.max(ended).as_py(),
        "first_run": pc.min(ids).as_py(),
        "last_run": pc.max(ids).as_py(),
        "outliers": "",
        "replaces": [],
    }
    folder = bucket / "unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    writer = BatchWriter(folder, runs=len(ids))
    writer.write(tables)
    written = writer.finish(facts)
    batch = f"{MONTH_MS + (day + 1) * DAY_MS:012x}{'7' * 20}"
    for name, file in written.items():
        for number in range(tenants):
            date = f"2026-01-{day + 1:02}"
            to = bucket / f"engine/{name}/tenant={tenant_name(number)}/day={date}"
            to.mkdir(parents=True)
            os.link(file.path, to / f"{name}-{batch}.parquet")
        file.path.unlink()
    return sum(file.bytes for file in written.values())


class _Day:
    """The runs of a day that begins at 0; the days differ in their times and ids."""

    def __init__(self, count: int) -> None:
        self._chance = random.Random(20)
        ended = sorted(self._chance.randrange(DAY_MS) for _ in range(count))
        rows = [self._run(ended_ms) for ended_ms in ended]
        self._runs = pa.Table.from_pylist(rows, schema=RUNS)
        self._steps = pa.Table.from_pylist(
            [self._step(row, number) for row in rows for number in range(STEPS_PER_RUN)],
            schema=STEPS,
        )
        self._journal = pa.Table.from_pylist(
            [self._record(row, offset) for row in rows for offset in range(RECORDS_PER_RUN)],
            schema=JOURNAL,
        )

    def tables(self, begins_ms: int) -> dict[str, pa.Table]:
        created = self._runs.column("created_ms").to_pylist()
        ids = [self._id(begins_ms + at) for at in created]
        return {
            "runs": _moved(self._runs, begins_ms, ids, 1),
            "steps": _moved(self._steps, begins_ms, ids, STEPS_PER_RUN),
            "journal": _moved(self._journal, begins_ms, ids, RECORDS_PER_RUN),
        }

    def _id(self, created_ms: int) -> str:
        head = f"{created_ms:012x}"
        tail = f"{self._chance.getrandbits(74) | 1 << 73:019x}"
        return f"{head[:8]}-{head[8:]}-7{tail[:3]}-8{tail[3:6]}-{tail[6:18]}"

    def _run(self, ended_ms: int) -> dict[str, Any]:
        took_ms = int(self._chance.expovariate(1 / 20_000))
        is_failed = self._chance.random() < 0.05
        used = [self._used() for _ in range(self._chance.randrange(1, 4))]
        order = self._chance.getrandbits(40)
        return {
            "run_id": "",
            "project_id": self._chance.choice(("shop", "support", "lab")),
            "deployment_id": "main",
            "component": f"component-{self._chance.randrange(12)}",
            "kind": "workflow",
            "status": "FAILED" if is_failed else "COMPLETED",
            "attempt": 1,
            "created_ms": ended_ms - took_ms,
            "started_ms": ended_ms - took_ms + 2,
            "completed_ms": ended_ms,
            "duration_ms": took_ms,
            "steps_completed": STEPS_PER_RUN,
            "steps_failed": int(is_failed),
            "records": RECORDS_PER_RUN,
            "model": used[0]["model"],
            "tokens_in": sum(one["tokens_in"] for one in used),
            "tokens_out": sum(one["tokens_out"] for one in used),
            "cost_usd": sum(one["cost_usd"] for one in used),
            "tool_calls": sum(one["tool_calls"] for one in used),
            "usage": used,
            "error_code": "declined" if is_failed else None,
            "error_message": f"card of order {order} declined" if is_failed else None,
            "error_signature": "card of order # declined" if is_failed else None,
            "prompt_version": f"v{self._chance.randrange(4)}",
            "trace_id": f"{self._chance.getrandbits(128):032x}",
            "tags": [("team", self._chance.choice("abc"))],
            "input": json.dumps({"order": order, "items": [order % 97, order % 89], "note": "x"}),
            "output": json.dumps(
                {"order": order, "total": order % 9_973, "text": f"{order:x}" * 9}
            ),
        }

    def _used(self) -> dict[str, Any]:
        tokens_in, tokens_out = self._chance.randrange(4_000), self._chance.randrange(900)
        return {
            "model": self._chance.choice(MODELS),
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "cost_usd": tokens_in * 3e-6 + tokens_out * 15e-6,
            "tool_calls": self._chance.randrange(3),
        }

    def _step(self, run: dict[str, Any], number: int) -> dict[str, Any]:
        return {
            "run_id": "",
            "position": number,
            "kind": "step",
            "name": f"step-{number}",
            "status": "completed",
            "started_ms": run["started_ms"],
            "finished_ms": run["completed_ms"],
            "output": run["output"],
            "component": run["component"],
            "project_id": run["project_id"],
            "completed_ms": run["completed_ms"],
        }

    def _record(self, run: dict[str, Any], offset: int) -> dict[str, Any]:
        return {
            "run_id": "",
            "offset": offset,
            "kind": "RUN_COMPLETED" if offset == RECORDS_PER_RUN - 1 else "STEP_COMPLETED",
            "flags": 0,
            "timestamp_us": run["started_ms"] * 1_000,
            "payload": run["output"].encode() + bytes([offset]),
        }


def _moved(table: pa.Table, begins_ms: int, ids: list[str], each: int) -> pa.Table:
    """The rows at their day, with the ids of its runs."""
    repeated = [one for one in ids for _ in range(each)]
    moved = table.set_column(0, table.schema.field(0), pa.array(repeated, pa.string()))
    for name in table.schema.names:
        if name in ("created_ms", "started_ms", "completed_ms", "finished_ms"):
            at = moved.schema.get_field_index(name)
            later = pc.add(moved.column(at), pa.scalar(begins_ms, pa.int64()))
            moved = moved.set_column(at, table.schema.field(at), later)
    return moved
