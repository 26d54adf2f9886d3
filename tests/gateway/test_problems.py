"""What is wrong is said as a problem document that names the code, the field and the fix."""

from __future__ import annotations

import contextlib
import os
import tracemalloc

import pytest
import trio

from engine.base import errors
from engine.base.errors import EngineError
from engine.gateway import settings
from engine.gateway.api import problems
from engine.gateway.api.problems import STATUS_OF_CODE, MalformedJson
from engine.gateway.api.reading import checked_json
from engine.gateway.settings import GatewaySettings
from tests.gateway.client import Answer
from tests.gateway.conftest import OTHER_KEY, REFUSED_KEY, Connect, RunningGateway, running
from tests.gateway.fake_handle import ECHO, HOLD

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
RUN_ECHO = f"/v1/workflows/{ECHO}/run"


def every_error(base: type[EngineError] = EngineError) -> list[type[EngineError]]:
    found = [base]
    for derived in base.__subclasses__():
        found.extend(every_error(derived))
    return found


ERRORS = [e for e in every_error() if e.__module__ in (errors.__name__, problems.__name__)]


def check_problem(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:durable-engine:problem:{code}"
    assert problem["title"] == code.replace("_", " ")
    assert len(problem["detail"]) > 20


def test_every_code_has_its_status() -> None:
    assert sorted(STATUS_OF_CODE) == sorted({error.code for error in ERRORS})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_every_error_of_the_runtime_arrives(
    gateway: RunningGateway, error: type[EngineError]
) -> None:
    async with gateway.client() as client:
        for ask in (client.get("/v1/runs"), client.post(RUN_ECHO)):
            gateway.handle.next_failure = error(
                "do this instead of that, please", field="order.total", left=3
            )
            answer = await ask
            check_problem(answer, STATUS_OF_CODE[error.code], error.code)
            message = "do this instead of that, please"
            assert answer.json["detail"].startswith(message)
            assert answer.json["errors"][0]["field"] == "order.total"
            assert answer.json["facts"]["left"] == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.JournalBusy("come again in a moment, please"), "1"),
        (errors.RateLimited("come again in a moment, please", retry_after_s=2.2), "3"),
        (errors.TenantLimitReached("come again in a moment, please", retry_after_s=10), "10"),
    ],
)
async def test_who_is_to_come_again_is_told_when(
    gateway: RunningGateway, connect: Connect, error: EngineError, expected: str
) -> None:
    gateway.handle.next_failure = error
    async with connect() as client:
        answer = await client.post(RUN_ECHO)
    check_problem(answer, STATUS_OF_CODE[error.code], error.code)
    assert answer.headers["retry-after"] == expected


@pytest.mark.parametrize("path", [RUN_ECHO, f"/v1/workflows/{ECHO}/batch"])
async def test_a_defect_is_answered_and_the_process_goes_on(
    gateway: RunningGateway, connect: Connect, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    gateway.handle.next_failure = ZeroDivisionError("secret 42")
    async with connect() as client:
        answer = await client.post(path, {"inputs": [1]})
        check_problem(answer, 500, "internal_error")
        assert "secret 42" in caplog.text
        assert "secret" not in answer.body.decode()
        assert (await client.get("/healthz")).status == 200


# ---- what is not found ----


async def test_an_unknown_component_lists_the_nearest_names(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.post("/v1/workflows/shop.ecko/run")
    check_problem(answer, 404, "unknown_component")
    assert answer.json["facts"]["nearest"][0] == ECHO
    assert f"did you mean {ECHO}" in answer.json["detail"]


async def test_an_unknown_kind_lists_the_kinds(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.post(f"/v1/workflowz/{ECHO}/run")
    check_problem(answer, 404, "unknown_route")
    assert "workflow" in answer.json["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/runs/", "/v1//runs", "/v1/status/", "/v1/%2e%2e/runs", "/v2/x"]
)
async def test_an_unknown_path(connect: Connect, path: str) -> None:
    async with connect() as client:
        check_problem(await client.get(path), 404, "unknown_route")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", RUN_ECHO, "POST"),
        ("POST", f"/v1/status/{RUN}", "GET"),
        ("POST", "/v1/runs", "GET"),
        ("DELETE", f"/v1/runs/{RUN}", "GET"),
        ("PUT", f"/v1/runs/{RUN}/cancel", "POST"),
        ("OPTIONS", "/v1/runs", "GET"),
    ],
)
async def test_a_path_that_does_not_take_the_method(
    connect: Connect, method: str, path: str, allowed: str
) -> None:
    async with connect() as client:
        answer = await client.ask(method, path)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs/{}"),
        ("GET", "/v1/status/{}"),
        ("GET", "/v1/result/{}"),
        ("GET", "/v1/result/{}?wait_s=1"),
        ("GET", "/v1/runs/{}/journal"),
        ("GET", "/v1/runs/{}/events"),
        ("GET", "/v1/runs/{}/events?after=3"),
        ("GET", "/v1/runs/{}/why"),
        ("POST", "/v1/runs/{}/cancel"),
        ("POST", "/v1/runs/{}/signals/go"),
        ("POST", "/v1/runs/{}/waits/1/resolve"),
    ],
)
async def test_an_unknown_run(connect: Connect, method: str, path: str) -> None:
    async with connect() as client:
        check_problem(await client.ask(method, path.format(RUN)), 404, "unknown_run")
        answer = await client.ask(method, path.format("not-a-run"))
    check_problem(answer, 400, "invalid_name")
    assert answer.json["errors"][0]["field"] == "run_id"


async def test_an_unknown_wait(connect: Connect) -> None:
    async with connect() as client:
        run_id = (await client.post(f"/v1/workflows/{HOLD}/submit")).json["run_id"]
        answer = await client.post(f"/v1/runs/{run_id}/waits/7/resolve", 1)
    check_problem(answer, 404, "unknown_wait")


# ---- what is malformed ----


@pytest.mark.parametrize(
    ("body", "line", "column", "said"),
    [
        (b'{"a":1,}', 1, 8, "property name"),
        (b'{\n "a": tru\n}', 2, 10, "expecting value"),
        ('{"ä":'.encode(), 1, 6, "expecting value"),
        (b'{"a":"\xff"}', 1, 7, "not UTF-8"),
        (b"{}{}", 1, 3, "extra data"),
        (b"[NaN]", 1, 2, "expecting value"),
        (b'"\\ud800"', 1, 8, "half of a pair of surrogates"),
        (b"1e999", 1, 5, "out of range"),
        (b"[" * 100_000, 1, 513, "nested too deeply"),
        (b"[" + b"{},\n" * 300_000 + b"]", 300_001, 1, "expecting value"),
        (b"1" * 5_000, 1, 1, "a number has more than"),
    ],
)
async def test_malformed_json_says_where(
    connect: Connect, body: bytes, line: int, column: int, said: str
) -> None:
    async with connect() as client:
        answer = await client.ask("POST", RUN_ECHO, body)
    check_problem(answer, 400, "malformed_json")
    assert said in answer.json["detail"]
    assert (answer.json["facts"]["line"], answer.json["facts"]["column"]) == (line, column)
    assert f"line {line} column {column}" in answer.json["detail"]


@pytest.mark.parametrize("body", [b"1e308", b"-1e-999", b"1" * 4_000, b'{"a":[1E+300]}'])
async def test_a_number_is_passed_on_as_it_was_written(connect: Connect, body: bytes) -> None:
    async with connect() as client:
        answer = await client.ask("POST", RUN_ECHO, body)
    assert answer.status == 200
    assert b'"output":%b' % body in answer.body


@pytest.mark.parametrize("text", [b"[%b1]", b"[%b"])
def test_no_body_is_made_into_values_to_be_checked(text: bytes) -> None:
    """A scan takes a tenth of the time, and nobody else is answered meanwhile."""
    body = text % (b"{}," * 600_000)
    tracemalloc.start()
    try:
        with contextlib.suppress(MalformedJson):
            checked_json(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * len(body)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", f"{RUN_ECHO}?start_at_ms=soon", b"", "start_at_ms"),
        ("POST", f"{RUN_ECHO}?start_at=1", b"", "start_at"),
        ("POST", f"{RUN_ECHO}?tag.=x", b"", "tag."),
        ("GET", "/v1/runs?status=DONE", b"", "status"),
        ("GET", "/v1/runs?limit=0", b"", "limit"),
        ("GET", f"/v1/runs/{RUN}/journal?from_offset=-1", b"", "from_offset"),
        ("GET", f"/v1/runs/{RUN}/events?after=x", b"", "after"),
        ("GET", f"/v1/result/{RUN}?wait_s=1e9", b"", "wait_s"),
        ("GET", f"/v1/result/{RUN}?wait_s=nan", b"", "wait_s"),
        ("GET", f"/v1/status/{RUN}?wait_s=1", b"", "wait_s"),
        ("POST", f"/v1/workflows/{ECHO}/batch", b"{}", "inputs"),
        ("POST", f"/v1/workflows/{ECHO}/batch", b'{"inputs":3}', "inputs"),
        ("POST", f"/v1/workflows/{ECHO}/batch", b'{"inputs":[],"x":1}', "x"),
        ("POST", f"/v1/runs/{RUN}/cancel", b'{"reason":1}', "reason"),
    ],
)
async def test_a_wrong_field_is_named(
    connect: Connect, method: str, path: str, body: bytes, field: str
) -> None:
    async with connect() as client:
        answer = await client.ask(method, path, body)
    check_problem(answer, 422, "invalid_input")
    assert answer.json["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("X-Deployment-ID", "../blue", "invalid_name"),
        ("Idempotency-Key", "k" * 257, "invalid_input"),
        ("X-Session-ID", "s" * 513, "invalid_input"),
        ("X-User-ID", "", "invalid_input"),
    ],
)
async def test_a_wrong_header_is_named(
    connect: Connect, header: str, value: str, code: str
) -> None:
    async with connect() as client:
        answer = await client.ask("POST", RUN_ECHO, headers={header: value})
    check_problem(answer, STATUS_OF_CODE[code], code)
    expected = "deployment_id" if code == "invalid_name" else header
    assert answer.json["errors"][0]["field"] == expected


@pytest.mark.parametrize(
    "path", [f"{RUN_ECHO}?a=%ff", "/v1/workflows/%ff/run", f"{RUN_ECHO}?tag.a=1&tag.a=2"]
)
async def test_a_path_or_query_that_cannot_be_read(connect: Connect, path: str) -> None:
    async with connect() as client:
        check_problem(await client.ask("POST", path), 400, "malformed_request")


@pytest.mark.parametrize("path", [RUN_ECHO, f"/v1/workflows/{ECHO}/batch"])
async def test_a_body_over_the_bound(path: str) -> None:
    async with running(body_bytes_max=1_000) as gateway, gateway.client() as client:
        answer = await client.ask("POST", path, b"[%b]" % (b" " * 1_000))
        check_problem(answer, 413, "body_too_large")
        assert "1000" in answer.json["detail"]
        assert (await client.get("/healthz")).status == 200


# ---- who may not ----


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", RUN_ECHO),
        ("POST", f"/v1/workflows/{ECHO}/stream"),
        ("POST", "/v1/runs:batch"),
        ("GET", "/v1/runs"),
        ("GET", f"/v1/runs/{RUN}/events"),
    ],
)
async def test_an_unknown_key(
    gateway: RunningGateway, connect: Connect, method: str, path: str
) -> None:
    async with connect() as client:
        answer = await client.ask(method, path, headers={"X-API-Key": REFUSED_KEY})
    check_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert gateway.handle.contexts == []


async def test_who_comes_too_often_is_told_when_to_come_again() -> None:
    async with (
        running(requests_per_s_max=0.5, requests_burst_max=2) as gateway,
        gateway.client() as client,
    ):
        answers = [await client.get("/v1/runs") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        check_problem(answers[2], 429, "rate_limited")
        assert answers[2].headers["retry-after"] == "2"
        # Another tenant has its own, and machines that probe are never refused.
        assert (await client.get("/v1/runs", X_API_Key=OTHER_KEY)).status == 200
        assert (await client.get("/healthz")).status == 200
        gateway.clock.advance_us(2_000_000)
        assert (await client.post(RUN_ECHO)).status == 200


async def test_nobody_has_to_ask_for_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as the machine is, if nothing is said."""
    assert GatewaySettings().requests_per_s_max == 5_000 * len(os.sched_getaffinity(0))
    assert 0 < GatewaySettings().concurrency_per_project_max < GatewaySettings().connections_max
    monkeypatch.setattr(settings, "requests_per_s_of_core", 3)
    monkeypatch.setattr(settings, "cores", lambda: 2)
    async with running() as gateway, gateway.client() as client:
        statuses = [(await client.get("/v1/runs")).status for _ in range(8)]
        assert statuses == [200] * 6 + [429] * 2
        assert (await client.get("/v1/runs", X_API_Key=OTHER_KEY)).status == 200
        gateway.clock.advance_us(500_000)
        assert [(await client.get("/v1/runs")).status for _ in range(4)] == [200] * 3 + [429]


async def test_a_project_has_a_bound_on_waiting_requests() -> None:
    async with (
        running(concurrency_per_project_max=1) as gateway,
        gateway.client() as waiting,
        gateway.client() as client,
    ):
        await waiting.send("POST", f"/v1/workflows/{HOLD}/run")
        while not gateway.handle.waiting:
            await trio.lowlevel.checkpoint()
        for path in (RUN_ECHO, f"/v1/workflows/{ECHO}/stream"):
            answer = await client.post(path)
            check_problem(answer, 429, "rate_limited")
            assert answer.headers["retry-after"] == "1"
        assert (await client.post(f"/v1/workflows/{ECHO}/submit")).status == 202
        run_id = next(iter((await client.get("/v1/runs?status=QUEUED")).json["runs"]))["run_id"]
        await client.ask("POST", f"/v1/runs/{run_id}/cancel")
        status, _ = await waiting.read_head()
        assert status == 200
        assert (await client.post(RUN_ECHO)).status == 200
