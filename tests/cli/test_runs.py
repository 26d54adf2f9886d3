"""`engine runs` against a runtime and a worker that are processes of their own."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from engine.cli import runs
from engine.cli.main import engine
from engine.model.views import RunPage
from engine.sdk import Client, Event, RunFailed
from tests.cli.cutting import cutting
from tests.cli.running import PROGRAM, ROOT, Running

NOBODY = "http://127.0.0.1:1"  # nothing listens on this port
_WAIT_S_MAX = 30.0


def invoke(runtime: Running, *words: str, given: str | None = None) -> Result:
    arguments = ["runs", *words, "--url", runtime.http]
    return CliRunner().invoke(engine, arguments, input=given, catch_exceptions=False)


def said(runtime: Running, *words: str, given: str | None = None, exit_code: int = 0) -> str:
    result = invoke(runtime, *words, given=given)
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.output


def said_json(runtime: Running, *words: str, exit_code: int = 0) -> Any:
    result = invoke(runtime, *words, "--json")
    assert result.exit_code == exit_code, result.output
    return msgspec.json.decode(result.stdout)


def start(client: Client, component: str, value: Any = None) -> str:
    return client.submit(component, value)


def start_waiting(client: Client, component: str, value: Any = None) -> str:
    """A run that has come to its question or signal."""
    run_id = client.submit(component, value)
    deadline = time.monotonic() + _WAIT_S_MAX
    while client.status(run_id) != "WAITING":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run_id


def start_failing(client: Client, why: str) -> str:
    run_id = client.submit("fail", why)
    with pytest.raises(RunFailed):
        client.result(run_id)
    return run_id


# ---- start ----


def test_start_says_how_to_follow(runtime: Running, client: Client) -> None:
    text = said(runtime, "start", "greet", '"Ann"')
    started, follow = text.splitlines()
    run_id = started.removeprefix("started ")
    assert follow == f"follow it: engine runs tail {run_id}"
    assert client.result(run_id) == "Hello, Ann"


def test_start_and_wait_prints_what_it_returned(runtime: Running) -> None:
    assert said(runtime, "start", "greet", "--wait") == '"Hello, you"\n'
    ending = said_json(runtime, "start", "greet", '{"name": "Bob"}', "--wait")
    assert (ending["status"], ending["output"]) == ("COMPLETED", "Hello, Bob")


def test_start_and_wait_for_a_run_that_fails(runtime: Running) -> None:
    text = said(runtime, "start", "fail", '"no money"', "--wait", exit_code=1)
    assert re.fullmatch(r"error \[run_failed]: run .* failed: .*no money\n", text)
    ending = said_json(runtime, "start", "fail", '"no money"', "--wait", exit_code=1)
    assert ending["status"] == "FAILED"
    assert "no money" in ending["error"]["message"]


def test_the_input_may_be_a_file_or_standard_input(runtime: Running, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('"File"')
    assert "Hello, File" in said(runtime, "start", "greet", f"@{file}", "--wait")
    assert "Hello, Pipe" in said(runtime, "start", "greet", "-", "--wait", given='"Pipe"')
    assert "cannot be read" in said(runtime, "start", "greet", "@/no/such/file", exit_code=2)


def test_an_input_that_is_not_json(runtime: Running) -> None:
    text = said(runtime, "start", "greet", "Ann", exit_code=2)
    assert "INPUT is not JSON" in text
    assert """'"Ann"'""" in text, "shows how to write it"


def test_a_key_starts_nothing_twice(runtime: Running) -> None:
    words = ("start", "greet", '"Ann"', "--key", "the same")
    assert said_json(runtime, *words) == said_json(runtime, *words)


def test_tags_and_another_kind(runtime: Running, client: Client) -> None:
    words = ("start", "say_hello", '"x"', "--kind", "function", "--tag", "team=a=b")
    run_id = said_json(runtime, *words)["run_id"]
    assert client.result(run_id) == "Hello, x"
    assert client.get(run_id).tags == {"team": "a=b"}
    assert "NAME=TEXT" in said(runtime, "start", "greet", "--tag", "team", exit_code=2)


def test_an_unknown_component_has_near_ones(runtime: Running) -> None:
    text = said(runtime, "start", "gret", exit_code=1)
    assert text.startswith("error [unknown_component]: ")
    assert "did you mean greet?" in text


# ---- ls ----


def test_ls_shows_the_newest_first(runtime: Running, client: Client) -> None:
    first, second = (start(client, "greet", name) for name in ("a", "b"))
    client.result(second)
    client.result(first)
    lines = said(runtime, "ls", "--limit", "2").splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [
        [second, "COMPLETED", "greet"],
        [first, "COMPLETED", "greet"],
    ]
    assert "just now" in lines[1] or "s ago" in lines[1]
    assert "there are more" in lines[3]


def test_ls_filters(runtime: Running, client: Client) -> None:
    failed = start_failing(client, "for the list")
    waiting = start_waiting(client, "listen")

    def listed(*words: str) -> list[str]:
        found = said_json(runtime, "ls", *words)
        return [view.run_id for view in msgspec.convert(found, RunPage).runs]

    assert listed("--failed")[0] == failed
    assert listed("--status", "failed") == listed("--failed")
    assert waiting in listed("--status", "WAITING")
    assert waiting in listed("--component", "listen")
    assert failed not in listed("--component", "listen")
    assert waiting in listed("--since", "7d")
    assert listed("--since", "2999-01-31") == []
    assert "error" in said(runtime, "ls", "--failed").splitlines()[0]
    assert "ValueError" in said(runtime, "ls", "--failed") or "for the list" in said(
        runtime, "ls", "--failed"
    )
    assert said(runtime, "ls", "--component", "nothing") == "no runs\n"


def test_ls_shows_as_many_as_are_asked_for(
    runtime: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [start(client, "greet", "Ann") for _ in range(5)]
    monkeypatch.setattr(runs, "PAGE_RUNS_MAX", 2)
    found = said_json(runtime, "ls", "--limit", "5")["runs"]
    assert [view["run_id"] for view in found] == started[::-1]


@pytest.mark.parametrize("since", ["yesterday", "7", "-3d", "2026-13-01"])
def test_a_since_that_is_no_time(runtime: Running, since: str) -> None:
    assert "is no time: write a time span" in said(runtime, "ls", f"--since={since}", exit_code=2)


def test_failed_is_a_status(runtime: Running) -> None:
    assert "one of them" in said(runtime, "ls", "--failed", "--status", "WAITING", exit_code=2)


# ---- show and why ----


def test_show_tells_everything(runtime: Running, client: Client) -> None:
    run_id = start(client, "greet", "Ann")
    client.result(run_id)
    text = said(runtime, "show", run_id)
    for shown in ("COMPLETED", "greet (workflow)", '"Ann"', "1 completed, 0 failed"):
        assert shown in text
    assert re.search(r"^output +\"Hello, Ann\"", text, re.MULTILINE)
    assert re.search(r"^2 .* STEP_COMPLETED +say_hello → \"Hello, Ann\"", text, re.MULTILINE)


def test_show_tells_why_a_run_failed(runtime: Running, client: Client) -> None:
    text = said(runtime, "show", start_failing(client, "no money"))
    assert re.search(r"^error +.*no money", text, re.MULTILINE)
    assert "STEP_FAILED" in text


def test_nothing_that_users_write_rules_the_terminal(runtime: Running, client: Client) -> None:
    run_id = start_failing(client, "red \x1b[31m and \x9b title")
    for words in (("show", run_id), ("ls", "--failed"), ("tail", run_id)):
        output = invoke(runtime, *words).output
        assert "red" in output
        assert "\x1b" not in output
        assert "\x9b" not in output


def test_show_tells_what_it_waits_for(runtime: Running, client: Client) -> None:
    run_id = start_waiting(client, "ask", {"input_type": "select", "options": ["tea", "rum"]})
    text = said(runtime, "show", run_id)
    assert "What is it? [tea, rum]" in text
    assert f"engine runs answer {run_id}" in text
    assert re.search(r"^why +It is waiting for an answer", text, re.MULTILINE)
    assert said(runtime, "why", run_id).startswith("It is waiting for an answer to 'What is it?'")
    assert said_json(runtime, "why", run_id)["run_id"] == run_id


def test_show_as_json(runtime: Running, client: Client) -> None:
    run_id = start_failing(client, "no money")
    found = said_json(runtime, "show", run_id)
    assert found["run"]["run_id"] == run_id
    assert found["run"]["status"] == "FAILED"
    assert [record["kind"] for record in found["journal"]][:2] == ["RUN_ACCEPTED", "RUN_STARTED"]


def test_show_can_be_shorter(runtime: Running, client: Client) -> None:
    run_id = start_failing(client, "no money")
    text = said(runtime, "show", run_id, "--records", "1")
    assert "RUN_FAILED" in text
    assert "RUN_STARTED" not in text
    assert "3 earlier records" in text


def test_a_run_by_the_beginning_of_its_id(runtime: Running, client: Client) -> None:
    run_id = start(client, "greet", "Ann")
    assert said_json(runtime, "show", run_id[:30])["run"]["run_id"] == run_id
    assert said_json(runtime, "show", run_id.upper())["run"]["run_id"] == run_id


def test_a_beginning_that_names_no_run(runtime: Running, client: Client) -> None:
    one, other = (start(client, "greet", name) for name in ("a", "b"))
    shared = one[: next(at for at in range(36) if one[at] != other[at])]
    text = said(runtime, "show", shared, exit_code=2)
    assert one in text
    assert other in text
    assert "give the whole id" in said(runtime, "show", "deadbeef", exit_code=1)
    assert "8 or more characters" in said(runtime, "show", one[:7], exit_code=2)
    assert "8 or more characters" in said(runtime, "show", "greet-it-now", exit_code=2)


def test_an_unknown_run(runtime: Running) -> None:
    text = said(runtime, "show", "01890a5d-ac96-774b-bcce-b302099a8057", exit_code=1)
    assert text.startswith("error [unknown_run]: ")


# ---- tail ----


def test_tail_until_the_end(runtime: Running, client: Client) -> None:
    run_id = start(client, "greet", "Ann")
    lines = said(runtime, "tail", run_id).splitlines()
    assert [line.split()[1] for line in lines] == [
        "run.queued",
        "run.started",
        "workflow.step.completed",
        "run.completed",
    ]
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  run\.queued +greet \"Ann\"$", lines[0])
    after = said(runtime, "tail", run_id, "--after", "1").splitlines()
    assert after == lines[2:]


def test_tail_of_a_run_that_fails(runtime: Running, client: Client) -> None:
    run_id = start(client, "fail", "no money")
    assert "no money" in said(runtime, "tail", run_id, exit_code=1)


def test_tail_as_json_lines(runtime: Running, client: Client) -> None:
    text = said(runtime, "tail", start(client, "greet", "Ann"), "--json")
    events = [msgspec.json.decode(line, type=Event) for line in text.splitlines()]
    assert [event.id for event in events] == [0, 1, 2, 3]
    assert events[-1].data["output"] == "Hello, Ann"


def test_tail_goes_on_where_the_connection_broke(runtime: Running, client: Client) -> None:
    run_id = start(client, "greet", "Ann")
    client.result(run_id)
    with cutting(runtime.http, behind=b"event: run.started\n") as proxy:
        result = CliRunner().invoke(engine, ["runs", "tail", run_id, "--url", proxy.url])
    assert result.output == said(runtime, "tail", run_id)
    first, second = (head for head in proxy.requests if b"/events" in head)
    assert b"last-event-id" not in first.lower()
    assert b"last-event-id: 0\r\n" in second.lower()


def test_start_and_tail(runtime: Running) -> None:
    assert "run.completed" in said(runtime, "start", "greet", "--tail")
    assert "run.failed" in said(runtime, "start", "fail", '"x"', "--tail", exit_code=1)


def test_tail_shows_what_happens_now(runtime: Running, client: Client) -> None:
    """A real process: its lines come while the run goes on, live ones included."""
    run_id = start_waiting(client, "echo")
    command = [*PROGRAM, "runs", "tail", run_id, "--url", runtime.http]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as tail:
        assert tail.stdout is not None
        for awaited, said_next in (("wait.created", "now"), ("progress.update", None)):
            while awaited not in "".join(lines):
                lines.append(tail.stdout.readline())
                assert lines[-1], "it has ended"
            client.signal(run_id, "say", said_next)
        lines += tail.stdout
    assert tail.returncode == 0
    text = "".join(lines)
    assert re.search(r"output\.delta +heard now$", text, re.MULTILINE)
    assert re.search(r'progress\.update +\{"heard":"now"\}$', text, re.MULTILINE)
    assert text.index("progress.update") < text.index("run.completed")


def test_tail_in_a_terminal_says_where_the_run_stands(runtime: Running, client: Client) -> None:
    run_id = start_waiting(client, "listen")
    outside, inside = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "runs", "tail", run_id],
        cwd=ROOT,
        stdin=inside,
        stdout=inside,
        env=os.environ | {"TERM": "xterm-256color", "ENGINE_URL": runtime.http, "COLUMNS": "120"},
    ) as tail:
        os.close(inside)
        screen = b""
        while b"WAITING" not in screen:
            screen += os.read(outside, 1 << 16)
        client.signal(run_id, "go")
        tail.wait(_WAIT_S_MAX)
    os.close(outside)
    assert tail.returncode == 0
    assert b"workflow.wait.created" in screen
    assert b"\x1b[" in screen, "in colour"


# ---- cancel, signal, answer ----


def test_cancel(runtime: Running, client: Client) -> None:
    run_id = start_waiting(client, "listen")
    assert said(runtime, "cancel", run_id, "--reason", "enough") == f"{run_id} cancelled\n"
    assert client.status(run_id) == "CANCELLED"
    text = said(runtime, "tail", run_id, exit_code=1)
    assert "enough" in text
    ended = said_json(runtime, "start", "greet", "--wait")["run_id"]
    assert said(runtime, "cancel", ended, exit_code=1).startswith("error [run_terminal]: ")


def test_signal(runtime: Running, client: Client) -> None:
    run_id = start_waiting(client, "listen")
    said(runtime, "signal", run_id, "other", "--id", "1")
    assert said(runtime, "signal", run_id, "go", '{"n": 1}') == f'{run_id} signalled "go"\n'
    assert client.result(run_id) == {"n": 1}


@pytest.mark.parametrize(
    ("input_type", "options", "answer", "expected"),
    [
        ("text", [], "it is 5", "it is 5"),
        ("approval", [], "yes", True),
        ("approval", [], "NO", False),
        ("select", ["tea", "rum"], "rum", "rum"),
        ("multiselect", ["tea", "rum", "ale"], "rum, tea", ["rum", "tea"]),
        ("multiselect", ["tea", "rum"], "", []),
    ],
)
def test_answer(
    runtime: Running,
    client: Client,
    input_type: str,
    options: list[str],
    answer: str,
    expected: object,
) -> None:
    run_id = start_waiting(client, "ask", {"input_type": input_type, "options": options})
    said(runtime, "answer", run_id, answer)
    assert client.result(run_id) == expected


@pytest.mark.parametrize(
    ("input_type", "options", "answer", "complaint"),
    [
        ("approval", [], "perhaps", "neither yes nor no"),
        ("select", ["tea", "rum"], "gin", "not one of tea, rum"),
        ("multiselect", ["tea", "rum"], "tea,gin", "'gin' is not one of"),
    ],
)
def test_an_answer_that_is_none(
    runtime: Running,
    client: Client,
    input_type: str,
    options: list[str],
    answer: str,
    complaint: str,
) -> None:
    run_id = start_waiting(client, "ask", {"input_type": input_type, "options": options})
    assert complaint in said(runtime, "answer", run_id, answer, exit_code=2)
    assert client.status(run_id) == "WAITING"


def test_the_question_is_asked_where_no_answer_is_given(runtime: Running, client: Client) -> None:
    run_id = start_waiting(client, "ask", {"input_type": "approval", "options": []})
    result = invoke(runtime, "answer", run_id, given="yes\n")
    assert "What is it? [yes, no]" in result.stderr
    assert client.result(run_id) is True


def test_one_question_of_several(runtime: Running, client: Client) -> None:
    run_id = start_waiting(client, "ask_twice")
    text = said(runtime, "answer", run_id, "x", exit_code=2)
    questions = dict(re.findall(r"--wait-id (\S+) +(\w+)\?", text))
    assert sorted(questions.values()) == ["First", "Second"]
    for wait_id, question in questions.items():
        done = said_json(runtime, "answer", run_id, question, "--wait-id", wait_id)
        assert done["wait_id"] == wait_id
    assert client.result(run_id) == ["First", "Second"]
    text = said(runtime, "answer", run_id, "x", exit_code=1)
    assert text.startswith("error [unknown_wait]: ")


# ---- the runtime is elsewhere, or nowhere ----


def test_no_runtime_is_one_line_that_says_how_to_start_one() -> None:
    result = subprocess.run(
        [*PROGRAM, "runs", "ls"],
        cwd=ROOT,
        env=os.environ | {"ENGINE_URL": NOBODY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error [connection_lost]: no runtime answers at {NOBODY}: ")
    assert "`engine dev`" in line


def test_a_url_without_a_scheme() -> None:
    result = CliRunner().invoke(engine, ["runs", "ls", "--url", "localhost:34181"])
    assert "http://localhost:34181" in result.output
    assert result.exit_code != 0


def test_the_api_key_goes_along(runtime: Running) -> None:
    with cutting(runtime.http, behind=b"never") as proxy:
        environment = {"ENGINE_URL": proxy.url, "ENGINE_API_KEY": "sk_of_the_test"}
        result = CliRunner().invoke(engine, ["runs", "ls"], env=environment)
    assert result.exit_code == 0, result.output
    assert b"sk_of_the_test" in proxy.requests[0]
