"""The same SQL answers the same over hot, archived and mixed runs as over plain tables in plain
DuckDB: generated statements, and every function that is let through.

`ENGINE_TEST_CORPUS` is the number of statements, `ENGINE_TEST_SEED` makes others of them.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pytest

from engine.base.errors import EngineError
from engine.query.ports import StoreAccess
from engine.query.query import QueryTier
from tests.query.conftest import tier_over
from tests.query.corpus import Statements
from tests.query.function_calls import UNCALLED, Call, calls, names_let_through, together
from tests.query.lake import (
    DAY_MS,
    JANUARY_MS,
    TENANT,
    Lake,
    Row,
    run,
    runs_table,
    step,
    steps_table,
)

Part = TypeVar("Part")
STATEMENTS = int(os.environ.get("ENGINE_TEST_CORPUS", "80"))
SEED = int(os.environ.get("ENGINE_TEST_SEED", "1"))
CALLS_OF_EACH = 1 if STATEMENTS <= 1_000 else 20
PER_STATEMENT = 40
RUNS = 240


def rows() -> tuple[list[Row], list[Row]]:
    chance = random.Random(8)
    runs: list[Row] = []
    steps: list[Row] = []
    for number in range(RUNS):
        made = _run(chance, number, runs)
        runs.append(made)
        steps += [
            step(
                made,
                position,
                name=chance.choice(("load", "think", "say")),
                status=chance.choice(("completed", "failed")),
                duration_ms=chance.randrange(500),
                tokens_in=chance.choice((None, 3, 40)),
            )
            for position in range(chance.randrange(4))
        ]
    return runs, steps


def _run(chance: random.Random, number: int, earlier: Sequence[Row]) -> Row:
    models = [chance.choice(("large", "small")) for _ in range(chance.randrange(3))]
    is_open = number % 12 == 11
    made = run(
        JANUARY_MS + number * DAY_MS // 30,
        took_ms=None if is_open else chance.randrange(10_000),
        component=chance.choice(("greet", "bill", "sing")),
        project_id=chance.choice(("shop", "lab")),
        attempt=chance.randrange(1, 4),
        tokens_in=chance.choice((None, 0, 10, 400)),
        tokens_out=chance.choice((None, 7)),
        cost_usd=chance.choice((None, 0.0, 0.25, 1.5)),
        model=models[0] if models else None,
        usage=[
            {
                "model": model,
                "tokens_in": chance.randrange(50),
                "tokens_out": chance.randrange(50),
                "cost_usd": chance.choice((0.25, 0.5)),
                "tool_calls": chance.randrange(3),
            }
            for model in models
        ]
        or None,
        tags=[("team", chance.choice("ab"))] if chance.random() < 0.6 else [],
        prompt_version=chance.choice((None, "v1", "v2")),
        parent_run_id=chance.choice(earlier)["run_id"] if number % 3 == 1 else None,
        input=json.dumps({"order": number, "items": [number % 7, "x"], "note": None}),
    )
    if not is_open and chance.random() < 0.3:
        made |= {"status": "FAILED", "error_code": chance.choice(("late", "lost"))}
    return made


class Place:
    """Where the runs are, and what plain DuckDB says of them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.lake = Lake(folder / name)
        runs, steps = rows()
        if name == "cold":  # what is in files has ended
            runs = [one for one in runs if one["completed_ms"] is not None]
            steps = [one for one in steps if one["completed_ms"] is not None]
        self.plain = _plain(runs, steps)
        # By whole days, and by runs: a part of each day is still hot.
        is_cold = {
            one["run_id"]: one["completed_ms"] is not None
            and (name == "cold" or (name == "mixed" and index % 3 > 0))
            for index, one in enumerate(runs)
        }
        for some in _in_parts(runs, 90):
            self.lake.add_runs([one for one in some if is_cold[one["run_id"]]])
        self.lake.add_steps([one for one in steps if is_cold[one["run_id"]]])
        self.lake.hot = [one for one in runs if not is_cold[one["run_id"]]]
        self.lake.hot_steps = [one for one in steps if not is_cold[one["run_id"]]]

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[QueryTier]:
        async with tier_over(StoreAccess(root=self.lake.root)) as tier:
            yield tier

    async def differs(self, tier: QueryTier, sql: str) -> str:
        """What the two say, if it is not the same answer."""
        try:
            expected = shown(self.plain.execute(sql).to_arrow_table(), sql)
        except duckdb.Error as error:
            expected = [f"{type(error).__name__}: {error}"]
        try:
            answer = await tier.run_arrow(TENANT, sql, self.lake.snapshot)
            with pa.ipc.open_stream(answer.stream) as reader:
                found = shown(reader.read_all(), sql)
        except EngineError as error:
            found = [f"an error: {error.message}"]
        if found == expected:
            return ""
        unlike = [pair for pair in itertools.zip_longest(found, expected) if pair[0] != pair[1]]
        return f"{self.name}: {sql}\n  {len(found)} rows, not {len(expected)}; {unlike[:2]}"


def _in_parts(some: Sequence[Part], size: int) -> Iterator[Sequence[Part]]:
    return (some[first : first + size] for first in range(0, len(some), size))


def _plain(runs: Sequence[Row], steps: Sequence[Row]) -> duckdb.DuckDBPyConnection:
    plain = duckdb.connect(":memory:", config={"threads": "1"})
    plain.execute("SET TimeZone = 'UTC'")
    for name, found in (("runs", runs_table(runs)), ("steps", steps_table(steps))):
        plain.register("given", found)
        plain.execute(
            f"CREATE TABLE {name} AS SELECT *, '{TENANT}' AS tenant, "
            "CAST(make_timestamp(completed_ms * 1000) AS DATE) AS day FROM given"
        )
        plain.unregister("given")
    return plain


def shown(table: pa.Table, sql: str) -> list[str]:
    """Names and types, and the rows; in their order if they were asked for in one."""
    columns = [values_of(column) for column in table.columns]
    lines = [repr(row) for row in zip(*columns, strict=True)]
    head = repr([(field.name, str(field.type)) for field in table.schema])
    return [head, *(lines if "ORDER BY" in sql and "LIMIT" in sql else sorted(lines))]


def values_of(column: pa.ChunkedArray) -> list[Any]:
    try:
        return [plain_value(value) for value in column.to_pylist()]
    except ValueError:  # the fields of a row() have no names, and Arrow makes no dictionary of it
        return [column.slice(at, 1).to_string() for at in range(len(column))]


def plain_value(value: Any) -> Any:
    """Sums are rounded otherwise in another order."""
    if isinstance(value, float):
        return repr(value) if not math.isfinite(value) else float(f"{value:.10g}") + 0.0
    if isinstance(value, dict):
        return {key: plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    return value


@pytest.fixture(scope="module", params=["hot", "cold", "mixed"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(request.param, tmp_path_factory.mktemp("corpus"))


async def test_generated_statements_answer_as_over_plain_tables(place: Place) -> None:
    statements = Statements(SEED)
    async with place.asked() as tier:
        differences = [await place.differs(tier, statements.next()) for _ in range(STATEMENTS)]
    found = [one for one in differences if one]
    assert not found, f"{len(found)} of {STATEMENTS}:\n" + "\n".join(found[:10])


async def test_every_function_that_is_let_through_answers_as_over_plain_tables(
    place: Place,
) -> None:
    """Many calls in a statement; one that cannot be answered so is taken apart."""
    made = calls(place.plain, of_each=CALLS_OF_EACH)
    uncalled = names_let_through(place.plain) - {call.name for call in made}
    assert uncalled == UNCALLED
    found: list[str] = []
    async with place.asked() as tier:
        for is_aggregate in (False, True):
            some = [call for call in made if call.is_aggregate is is_aggregate]
            for part in _in_parts(some, PER_STATEMENT):
                found += await _differing(place, tier, part)
    assert not found, f"{len(found)}:\n" + "\n".join(found[:20])


async def _differing(place: Place, tier: QueryTier, some: Sequence[Call]) -> list[str]:
    differs = await place.differs(tier, together(some))
    if not differs or len(some) == 1:
        return [differs] if differs else []
    return [one for call in some for one in await _differing(place, tier, [call])]
