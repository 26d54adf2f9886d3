"""A lake for tests: runs and steps as Parquet files in the archive's layout, and hot ones beside.

A run is a dictionary of the columns that matter to the test; the rest is filled in. Files may be
written with fewer columns, as an older engine would have.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.archive.rows.schema import RUNS, STEPS
from engine.base.clock import ManualClock
from engine.base.ids import RunIdFactory, TenantId, run_id_text

DAY_MS = 86_400_000
JANUARY_MS = 1_767_225_600_000  # 2026-01-01
TENANT = TenantId("acme")
OTHER = TenantId("umbra")

Row = dict[str, Any]


def new_id(created_ms: int) -> str:
    return run_id_text(RunIdFactory(ManualClock(created_ms * 1_000))())


def run(created_ms: int, /, *, took_ms: int | None = 1_000, **columns: Any) -> Row:
    """A run that ended after `took_ms`, or is open if that is None."""
    is_open = took_ms is None
    row: Row = {
        "run_id": new_id(created_ms),
        "project_id": "default",
        "deployment_id": "default",
        "component": "greet",
        "kind": "workflow",
        "status": "RUNNING" if is_open else "COMPLETED",
        "attempt": 1,
        "created_ms": created_ms,
        "started_ms": created_ms,
        "completed_ms": None if took_ms is None else created_ms + took_ms,
        "duration_ms": took_ms,
        "records": 4,
        "tags": [],
    }
    return row | columns


def step(of: Row, position: int, **columns: Any) -> Row:
    row = {
        "run_id": of["run_id"],
        "position": position,
        "kind": "step",
        "name": f"step-{position}",
        "status": "completed",
        "component": of["component"],
        "project_id": of["project_id"],
        "completed_ms": of["completed_ms"],
    }
    return row | columns


def table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    names = set(schema.names)
    for row in rows:
        assert not set(row) - names, f"no such columns: {set(row) - names}"
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def runs_table(rows: Sequence[Row] = ()) -> pa.Table:
    return table(rows, RUNS)


def steps_table(rows: Sequence[Row] = ()) -> pa.Table:
    return table(rows, STEPS)


@dataclass
class Lake:
    """The files under one root, and the snapshots that name them."""

    directory: Path
    root: str = ""  # as the reader names it; the directory itself unless it is served as S3
    run_files: list[str] = field(default_factory=list)
    step_files: list[str] = field(default_factory=list)
    hot: list[Row] = field(default_factory=list)
    hot_steps: list[Row] = field(default_factory=list)
    hot_steps_built: int = 0
    hot_left_out: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        self.root = self.root or str(self.directory)

    def add_runs(
        self, rows: Sequence[Row], *, tenant: str = TENANT, schema: pa.Schema = RUNS
    ) -> list[str]:
        """Writes one file for each day on which some of them ended; the files' names."""
        return self._add("runs", rows, tenant, schema, self.run_files)

    def add_steps(
        self, rows: Sequence[Row], *, tenant: str = TENANT, schema: pa.Schema = STEPS
    ) -> list[str]:
        return self._add("steps", rows, tenant, schema, self.step_files)

    def path(self, file: str) -> Path:
        return self.directory / file.removeprefix(self.root).lstrip("/")

    def snapshot(self, _window: object = None) -> LakeSnapshot:
        return LakeSnapshot(self, sorted(self.run_files), sorted(self.step_files))

    def _add(
        self, name: str, rows: Sequence[Row], tenant: str, schema: pa.Schema, known: list[str]
    ) -> list[str]:
        days: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: row["completed_ms"]):
            days.setdefault(day_of(row["completed_ms"]), []).append(row)
        added = []
        for day, some in days.items():
            self.batches += 1
            inside = f"{name}/tenant={tenant}/day={day}/{name}-{self.batches:08}.parquet"
            path = self.directory / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table(some, schema), path, compression="zstd")
            added.append(f"{self.root}/{inside}")
        if tenant == TENANT:
            known.extend(added)
        return added


@dataclass
class LakeSnapshot:
    lake: Lake
    run_files: Sequence[str]
    step_files: Sequence[str]

    @property
    def hot_left_out(self) -> int:
        return self.lake.hot_left_out

    def hot_runs(self) -> object:
        return runs_table(self.lake.hot)

    def hot_steps(self) -> object:
        self.lake.hot_steps_built += 1
        return steps_table(self.lake.hot_steps)


def day_of(moment_ms: int) -> str:
    return datetime.datetime.fromtimestamp(moment_ms / 1_000, datetime.UTC).date().isoformat()


def as_dicts(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Mapping[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]
