"""Every route does what its summary says, whichever way the request came."""

from __future__ import annotations

import msgspec
import pytest

from engine.base.ids import parse_run_id
from engine.base.limits import time_ms_max
from engine.gateway.api import routes
from engine.model.context import AuthMode
from engine.model.runs import ComponentKind
from tests.gateway.client import Client
from tests.gateway.conftest import CONTEXT, OTHER_KEY, Connect, RunningGateway
from tests.gateway.fake_handle import ASK, ECHO, FAIL, HOLD, WAIT


async def submitted(client: Client, component: str, value: object = None) -> str:
    answer = await client.post(f"/v1/workflows/{component}/submit", value)
    assert answer.status == 202, answer
    run_id: str = answer.json["run_id"]
    return run_id


async def test_run_starts_and_waits(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.post(f"/v1/workflows/{ECHO}/run", {"order": 12})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["status"] == "COMPLETED"
    assert answer.json["output"] == {"order": 12}
    parse_run_id(answer.json["run_id"])


async def test_run_of_a_run_that_fails_says_why(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.post(f"/v1/workflow/{FAIL}/run")
    assert (answer.status, answer.json["status"]) == (200, "FAILED")
    assert answer.json["error"] == {
        "code": "declined",
        "message": "the card was declined",
        "type": "Declined",
    }


@pytest.mark.parametrize("name", sorted(routes.KINDS))
async def test_a_kind_is_singular_or_plural(gateway: RunningGateway, name: str) -> None:
    async with gateway.client() as client:
        answer = await client.post(f"/v1/{name}/{ECHO}/run")
    assert answer.status == 200
    assert gateway.handle.only_run().request.kind is routes.KINDS[name]
    assert set(routes.KINDS.values()) == set(ComponentKind)


async def test_an_empty_body_is_null(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.ask("POST", f"/v1/workflows/{ECHO}/run")
    assert answer.json["output"] is None


async def test_what_headers_and_query_say_reaches_the_run(
    gateway: RunningGateway, connect: Connect
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    path = f"/v1/workflows/{ECHO}/submit?start_at_ms=5&entity_key=e%2F1&tag.customer=acme&tag.a=b"
    async with connect() as client:
        answer = await client.post(
            f"{path}&correlation_id=c&prompt_version=p",
            {},
            Idempotency_Key="k",
            X_Deployment_ID="blue",
            X_Session_ID="s",
            X_User_ID="u",
            X_API_Key=OTHER_KEY,
            traceparent=f"00-{trace_id}-00f067aa0ba902b7-01",
        )
        run = gateway.handle.only_run().request
        location = answer.headers["location"]
        view = (await client.get(location, X_API_Key=OTHER_KEY)).json
    assert (run.idempotency_key, run.deployment_id) == ("k", "blue")
    assert (run.session_id, run.user_id, run.trace_id) == ("s", "u", trace_id)
    assert (run.start_at_ms, run.entity_key) == (5, "e/1")
    assert (run.correlation_id, run.prompt_version) == ("c", "p")
    assert view["tags"] == {"customer": "acme", "a": "b"}
    assert location == f"/v1/runs/{answer.json['run_id']}"


async def test_a_key_that_has_a_user_speaks_for_no_other(
    gateway: RunningGateway, connect: Connect
) -> None:
    async with connect() as client:
        await client.post(f"/v1/workflows/{HOLD}/submit", X_User_ID="u")
        line = msgspec.json.encode({"component": HOLD, "user_id": "u"})
        await client.ask("POST", "/v1/runs:batch", line, headers={"X-User-ID": "u"})
    users = [run.request.user_id for run in gateway.handle.all_runs()]
    assert users == [CONTEXT.user_id] * 2


async def test_without_headers_the_context_and_the_defaults_count(gateway: RunningGateway) -> None:
    async with gateway.client(("traceparent", "broken")) as client:
        await submitted(client, HOLD)
    run = gateway.handle.only_run().request
    assert (run.deployment_id, run.user_id) == ("default", CONTEXT.user_id)
    assert (run.session_id, run.trace_id, run.idempotency_key) == ("", "", None)


async def test_no_answer_may_be_taken_for_something_else(connect: Connect) -> None:
    asked = [
        ("GET", "/healthz", 200),
        ("GET", "/v1/runs", 200),
        ("GET", "/nowhere", 404),
        ("POST", f"/v1/workflows/{ECHO}/run", 200),
        ("POST", f"/v1/workflows/{ECHO}/stream", 200),
        ("GET", "/v1/runs?limit=x", 422),
    ]
    async with connect() as client:
        for method, path, status in asked:
            answer = await client.ask(method, path)
            found = (answer.status, answer.headers["x-content-type-options"])
            assert found == (status, "nosniff"), path


@pytest.mark.parametrize("start_at_ms", [time_ms_max + 1, 2**53, 2**70, -1])
async def test_a_time_that_no_calendar_has(connect: Connect, start_at_ms: int) -> None:
    line = msgspec.json.encode({"component": ECHO}).replace(b"}", b',"start_at_ms":%d}')
    async with connect() as client:
        path = f"/v1/workflows/{ECHO}/submit?start_at_ms={start_at_ms}"
        assert (await client.post(path)).status == 422
        answer = await client.ask("POST", "/v1/runs:batch", line % start_at_ms)
        assert answer.lines[0]["code"] == "invalid_input"
        path = f"/v1/workflows/{ECHO}/submit?start_at_ms={time_ms_max}"
        assert (await client.post(path)).status == 202


async def test_the_same_key_starts_once(connect: Connect) -> None:
    async with connect() as client:
        path = f"/v1/workflows/{HOLD}/submit"
        first = await client.post(path, 1, Idempotency_Key="k")
        second = await client.post(path, 1, Idempotency_Key="k")
        other = await client.post(path, 2, Idempotency_Key="k")
    assert first.json["is_new"] is True
    assert second.json == {"run_id": first.json["run_id"], "is_new": False}
    assert (other.status, other.json["code"]) == (409, "idempotency_conflict")


async def test_batch_answers_in_order(gateway: RunningGateway, connect: Connect) -> None:
    async with connect() as client:
        body = {"inputs": [{"n": 0}, None, [1]]}
        first = await client.post(f"/v1/workflows/{ECHO}/batch", body, Idempotency_Key="k")
        again = await client.post(f"/v1/workflows/{ECHO}/batch", body, Idempotency_Key="k")
        ids = [run["run_id"] for run in first.json["runs"]]
        outputs = [(await client.get(f"/v1/result/{one}")).json["output"] for one in ids]
    assert first.status == 202
    assert outputs == [{"n": 0}, None, [1]]
    assert [run["run_id"] for run in again.json["runs"]] == ids
    assert gateway.handle.commits == 2


async def test_batch_of_an_unknown_component_says_so_for_each(connect: Connect) -> None:
    async with connect() as client:
        answer = await client.post("/v1/workflows/shop.ecko/batch", {"inputs": [1, 2]})
    assert answer.status == 202
    assert [run["code"] for run in answer.json["runs"]] == ["unknown_component"] * 2
    assert answer.json["runs"][0]["facts"]["nearest"][0] == ECHO


async def test_status_and_result_of_a_run_under_way(
    gateway: RunningGateway, connect: Connect
) -> None:
    async with connect() as client:
        run_id = await submitted(client, HOLD)
        status = await client.get(f"/v1/status/{run_id}")
        result = await client.get(f"/v1/result/{run_id}")
        waited = await client.get(f"/v1/result/{run_id}?wait_s=0.01")
    assert (status.status, status.json) == (200, {"run_id": run_id, "status": "QUEUED"})
    assert (result.status, result.json) == (202, status.json)
    assert (waited.status, waited.json) == (202, status.json)
    assert gateway.handle.waiting == 0


async def test_result_waits_for_the_end(connect: Connect) -> None:
    async with connect() as client, connect() as other:
        run_id = await submitted(client, WAIT)
        await client.send("GET", f"/v1/result/{run_id}?wait_s=30")
        signal = await other.post(f"/v1/runs/{run_id}/signals/go", {"ok": True})
        status, _ = await client.read_head()
        body = await client.read_body()
    assert (signal.status, signal.json) == (202, {"run_id": run_id, "done": "signalled"})
    assert status == 200
    assert b'"output":{"ok":true}' in body


async def test_the_same_signal_id_counts_once(gateway: RunningGateway, connect: Connect) -> None:
    async with connect() as client:
        run_id = await submitted(client, HOLD)
        for _ in range(2):
            await client.post(f"/v1/runs/{run_id}/signals/paid", 1, Idempotency_Key="s1")
        entries = (await client.get(f"/v1/runs/{run_id}/journal")).json["entries"]
    assert [entry["kind"] for entry in entries] == ["RUN_ACCEPTED", "SIGNAL_RECEIVED"]


async def test_a_wait_is_found_and_answered(connect: Connect) -> None:
    async with connect() as client:
        run_id = await submitted(client, ASK)
        view = (await client.get(f"/v1/runs/{run_id}")).json
        (wait,) = view["waits"]
        path = f"/v1/runs/{run_id}/waits/{wait['wait_id']}/resolve"
        resolved = await client.post(path, "yes")
        result = await client.get(f"/v1/result/{run_id}")
    assert (view["status"], wait["question"]) == ("WAITING", "ship it?")
    assert (resolved.status, resolved.json["done"]) == (202, "resolved")
    assert result.json["output"] == "yes"


async def test_cancel(connect: Connect) -> None:
    async with connect() as client:
        run_id = await submitted(client, HOLD)
        answer = await client.post(f"/v1/runs/{run_id}/cancel", {"reason": "changed my mind"})
        result = await client.get(f"/v1/result/{run_id}")
        again = await client.ask("POST", f"/v1/runs/{run_id}/cancel")
    assert (answer.status, answer.json) == (202, {"run_id": run_id, "done": "cancelled"})
    assert (result.status, result.json) == (200, {"run_id": run_id, "status": "CANCELLED"})
    assert (again.status, again.json["code"]) == (409, "run_terminal")


async def test_the_journal_is_readable(connect: Connect) -> None:
    async with connect() as client:
        run_id = await submitted(client, ECHO, {"order": 12})
        whole = (await client.get(f"/v1/runs/{run_id}/journal")).json
        page = (await client.get(f"/v1/runs/{run_id}/journal?from_offset=1&limit=1")).json
        beyond = (await client.get(f"/v1/runs/{run_id}/journal?from_offset=2")).json
    assert [entry["offset"] for entry in whole["entries"]] == [0, 1]
    assert whole["entries"][0]["payload"] == {"component": ECHO, "input": {"order": 12}}
    assert whole["entries"][1]["kind"] == "RUN_COMPLETED"
    assert (page["entries"], page["next_offset"]) == (whole["entries"][1:], 2)
    assert beyond == {"entries": [], "next_offset": 2}


async def test_why(connect: Connect) -> None:
    async with connect() as client:
        run_id = await submitted(client, HOLD)
        answer = await client.get(f"/v1/runs/{run_id}/why")
    assert answer.json == {"run_id": run_id, "why": "nobody has moved it; it is QUEUED"}


async def test_runs_are_listed_page_by_page(connect: Connect) -> None:
    async with connect() as client:
        ids = [await submitted(client, component) for component in (ECHO, HOLD, ECHO, HOLD)]
        first = (await client.get("/v1/runs?limit=3")).json
        second = (await client.get(f"/v1/runs?limit=3&cursor={first['next_cursor']}")).json
        done = (await client.get("/v1/runs?status=COMPLETED")).json
        held = (await client.get(f"/v1/runs?component={HOLD}")).json
    assert [run["run_id"] for run in first["runs"] + second["runs"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert {run["run_id"] for run in done["runs"]} == {ids[0], ids[2]}
    assert {run["run_id"] for run in held["runs"]} == {ids[1], ids[3]}


async def test_components(connect: Connect) -> None:
    async with connect() as client:
        found = (await client.get("/v1/components")).json["components"]
    assert ECHO in [component["name"] for component in found]


async def test_another_tenant_does_not_see_the_run(connect: Connect) -> None:
    async with connect() as client:
        run_id = await submitted(client, HOLD)
        for path in (f"/v1/runs/{run_id}", f"/v1/status/{run_id}", f"/v1/runs/{run_id}/events"):
            answer = await client.get(path, X_API_Key=OTHER_KEY)
            assert (answer.status, answer.json["code"]) == (404, "unknown_run")
        answer = await client.get("/v1/runs", Authorization=f"Bearer {OTHER_KEY}")
    assert answer.json["runs"] == []


async def test_every_request_has_the_context_of_its_caller(
    gateway: RunningGateway, connect: Connect
) -> None:
    async with connect() as client:
        await client.get("/v1/runs")
        await client.get("/v1/runs", X_API_Key=OTHER_KEY)
    modes = [context.auth_mode for context in gateway.handle.contexts]
    assert modes == [AuthMode.LOOPBACK, AuthMode.API_KEY]


async def test_probes(gateway: RunningGateway, connect: Connect) -> None:
    async with connect() as client:
        assert (await client.get("/healthz")).json == {"status": "ok"}
        assert (await client.get("/readyz")).status == 200
        gateway.not_ready = "the journal is being read"
        answer = await client.get("/readyz")
        assert (await client.get("/healthz")).status == 200
    assert (answer.status, answer.json["code"]) == (503, "not_ready")
    assert "the journal is being read" in answer.json["detail"]


async def test_metrics_count_requests_by_route(connect: Connect) -> None:
    async with connect() as client:
        await client.post(f"/v1/workflows/{ECHO}/run")
        await client.get("/v1/runs")
        await client.get("/nowhere")
        answer = await client.get("/metrics")
    lines = answer.body.decode().splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'engine_http_requests_total{route="run",status="200"} 1' in lines
    assert 'engine_http_requests_total{route="list_runs",status="200"} 1' in lines
    assert 'engine_http_requests_total{route="unknown",status="404"} 1' in lines
    assert 'engine_http_request_seconds_count{route="run"} 1' in lines
    assert "engine_http_starts_total 1" in lines
    assert "engine_http_connections 1" in lines
    assert "engine_other 1" in lines


async def test_head_is_get_without_its_body(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        for path in ("/healthz", "/v1/runs"):
            answer = await client.ask("HEAD", path)
            assert (answer.status, answer.body) == (200, b"")
