"""`engine query` and `engine analytics`: the forms of an answer, and what is said when there is
none."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.model.query import ANALYTICS
from tests.cli.running import PROGRAM, ROOT
from tests.cli.served import Served, serving
from tests.gateway.fake_handle import ECHO, FAIL

SQL = "SELECT component, count(*) AS runs FROM runs GROUP BY component ORDER BY component"
ROWS = [{"component": ECHO, "runs": 2}, {"component": FAIL, "runs": 1}]
CSV = f"component,runs\n{ECHO},2\n{FAIL},1\n"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        found.start_three()
        yield found


# ---- to the terminal ----


def test_a_table(served: Served) -> None:
    result = served.invoke("query", SQL)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["component", "runs"],
        [ECHO, "2"],
        [FAIL, "1"],
    ]
    assert result.stderr == "2 rows, 2 ms\n"


def test_values_of_every_sort_in_a_table(served: Served) -> None:
    sql = "SELECT NULL AS n, true AS b, [1,2] AS l, 1.25::DOUBLE AS d, 'a\x1b[31mb' AS t"
    assert served.said("query", sql).splitlines()[1].split() == [
        "NULL",
        "true",
        "[1,2]",
        "1.25",
        "a",
        "[31mb",
    ]


def test_more_columns_than_a_line_has_room_for(served: Served) -> None:
    names = [f"column_{number}" for number in range(40)]
    columns = ", ".join(f"{number} AS {name}" for number, name in enumerate(names))
    lines = served.said("query", f"SELECT {columns} UNION ALL SELECT {columns}").splitlines()
    assert (lines[0], lines[41]) == ("row 1", "row 2")
    expected = [[name, str(number)] for number, name in enumerate(names)]
    assert [line.split() for line in lines[1:41]] == expected
    assert [line.split() for line in lines[42:]] == expected


def test_json_is_an_array_of_objects(served: Served) -> None:
    assert msgspec.json.decode(served.said("query", SQL, "--format", "json")) == ROWS


def test_csv(served: Served) -> None:
    assert served.said("query", SQL, "--format", "csv") == CSV


def test_arrow_through_a_pipe(served: Served) -> None:
    result = served.invoke("query", SQL, "--format", "arrow")
    assert result.exit_code == 0
    assert pa.ipc.open_stream(result.stdout_bytes).read_all().to_pylist() == ROWS


def test_sql_from_standard_input(served: Served) -> None:
    assert served.said("query", "-", "--format", "csv", given=f"-- how many\n{SQL};\n") == CSV


# ---- to a file ----


def read_back(file: Path) -> Any:
    match file.suffix:
        case ".json":
            return msgspec.json.decode(file.read_bytes())
        case ".parquet":
            return pq.read_table(file).to_pylist()
        case ".arrow":
            return pa.ipc.open_stream(file.read_bytes()).read_all().to_pylist()
    raise AssertionError(file)


@pytest.mark.parametrize("name", ["runs.json", "runs.parquet", "runs.arrow"])
def test_the_name_of_the_file_says_the_format(served: Served, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    assert served.said("query", SQL, "-o", str(file)) == ""
    assert read_back(file) == ROWS
    assert list(tmp_path.iterdir()) == [file], "nothing else is left behind"


def test_csv_and_tables_to_a_file(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    served.said("query", SQL, "--output", str(file))
    assert file.read_text() == CSV
    served.said("query", SQL, "--format", "table", "--output", str(file))
    assert file.read_text().splitlines() == [
        "component  runs",
        f"{ECHO}     2",
        f"{FAIL}     1",
    ]


def test_a_format_goes_before_a_name(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    served.said("query", SQL, "--format", "parquet", "-o", str(file))
    assert pq.read_table(io.BytesIO(file.read_bytes())).to_pylist() == ROWS


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_a_file_that_cannot_be_written(served: Served, tmp_path: Path, form: str) -> None:
    missing = tmp_path / "no" / "folder"
    text = served.said("query", SQL, "--format", form, "-o", str(missing), exit_code=1)
    assert text == f"Error: {missing} cannot be written: No such file or directory\n"


# ---- what is missing ----


def test_there_are_more_rows(served: Served) -> None:
    for form in ("table", "csv", "arrow"):
        result = served.invoke("query", "SELECT run_id FROM runs", "--rows", "1", "--format", form)
        assert result.stderr.endswith("there are more rows: narrow the query, or say --rows N\n")


def test_what_could_not_be_read_is_named(served: Served) -> None:
    served.handle.tiers.skipped = ("day=2026-01-01/a.parquet: no \x1b[2Jfooter",)
    for words in (["query", SQL], ["query", SQL, "--format", "csv"], ["analytics", "tokens"]):
        assert served.invoke(*words).stderr.endswith(
            "left out, because it could not be read: day=2026-01-01/a.parquet: no  [2Jfooter\n"
        )


# ---- what is no query ----


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["SELECT nothing FROM runs"], 2, "error [invalid_query]: the SQL cannot be answered"),
        (["DELETE FROM runs"], 2, "error [query_refused]: a query is one SELECT"),
        (["  "], 2, "there is no SQL"),
        ([SQL, "--format", "parquet"], 2, "--output FILE"),
        ([SQL, "--output", "runs.xlsx"], 2, "give --format, or one of .arrow .arrows .csv"),
        ([SQL, "--format", "xml"], 2, "'xml' is not one of"),
        ([SQL, "--rows", "0"], 2, "x>=1"),
    ],
)
def test_what_is_no_query(served: Served, words: list[str], exit_code: int, said: str) -> None:
    assert said in served.said("query", *words, exit_code=exit_code)


def test_nobody_there_is_one_line() -> None:
    result = subprocess.run(
        [*PROGRAM, "query", "SELECT 1", "--url", "http://127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error [connection_lost]: no runtime answers at")


# ---- analytics ----


@pytest.mark.parametrize("name", ANALYTICS)
def test_analytics_as_a_table(served: Served, name: str) -> None:
    text = served.said("analytics", name)
    assert [line.split() for line in text.splitlines()] == [
        ["component", "tokens_in", "runs"],
        [ECHO, "4", "2"],
        [FAIL, "2", "1"],
    ]


def test_analytics_in_other_forms(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    served.said("analytics", "tokens", "-o", str(file))
    assert read_back(file)[0] == {"component": ECHO, "tokens_in": 4, "runs": 2}
    assert served.said("analytics", "tokens", "--format", "csv").splitlines()[0] == (
        "component,tokens_in,runs"
    )
    text = served.said("analytics", "tokens", "-o", str(tmp_path / "x.parquet"), exit_code=2)
    assert "table, csv or json" in text


def test_over_which_runs_analytics_are(served: Served) -> None:
    words = ("--since", "2026-01-01", "--until", "2026-02-01", "--project", "shop", "--limit", "3")
    served.said("analytics", "errors", *words)
    ((name, chosen),) = served.handle.tiers.analytics_asked
    assert (name, chosen.project_id, chosen.limit) == ("errors", "shop", 3)
    assert (chosen.from_ms, chosen.to_ms) == (1_767_225_600_000, 1_769_904_000_000)


def test_analytics_that_are_none(served: Served) -> None:
    assert "'token' is not one of 'tokens'" in served.said("analytics", "token", exit_code=2)
    text = served.said("analytics", "tokens", "--since", "monday", exit_code=2)
    assert "'monday' is no time: write a time span" in text
