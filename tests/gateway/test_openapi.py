"""The OpenAPI document is valid, complete, and what is answered is what it says."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import openapi_spec_validator
import pytest

from engine.gateway.api import routes
from engine.gateway.api.openapi import document
from engine.gateway.handlers.views import OPEN_VIEWS, VIEWS
from engine.gateway.serve import HANDLERS, OPEN_HANDLERS
from engine.gateway.settings import GatewaySettings
from tests.gateway.client import Answer
from tests.gateway.conftest import RunningGateway
from tests.gateway.fake_handle import ASK, ECHO, HOLD

DOCUMENT: dict[str, Any] = msgspec.json.decode(document(GatewaySettings().result_wait_s_max))


def test_the_document_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_every_route_is_in_it_and_served() -> None:
    described = {
        (method.upper(), path, operation["operationId"])
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
    }
    assert described == {(route.method, route.pattern, route.name) for route in routes.ROUTES}
    served = set(HANDLERS) | set(OPEN_HANDLERS) | set(VIEWS) | set(OPEN_VIEWS)
    assert served == {route.name for route in routes.ROUTES}


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda route: route.name)
def test_every_route_is_found_by_its_own_path(route: routes.Route) -> None:
    path = route.pattern.replace("{kind}", "tool").replace("{", "").replace("}", "")
    found = routes.find(route.method, path)
    assert found is not None
    assert found.route is route
    assert len(found.parameters) == route.pattern.count("{")


def check(operation_id: str, answer: Answer) -> None:
    (operation,) = (
        operation
        for operations in DOCUMENT["paths"].values()
        for operation in operations.values()
        if operation["operationId"] == operation_id
    )
    media_types = operation["responses"][str(answer.status)]["content"]
    content = media_types[answer.headers["content-type"]]
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    jsonschema.validate(answer.json, schema)


async def test_answers_are_as_described(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        run = await client.post(f"/v1/workflows/{ECHO}/run", {})
        submit = await client.post(f"/v1/workflows/{ASK}/submit", {})
        run_id = submit.json["run_id"]
        for name, answer in {
            "run": run,
            "submit": submit,
            "batch": await client.post(f"/v1/workflows/{HOLD}/batch", {"inputs": [1]}),
            "status": await client.get(f"/v1/status/{run_id}"),
            "get_run": await client.get(f"/v1/runs/{run_id}"),
            "list_runs": await client.get("/v1/runs"),
            "journal": await client.get(f"/v1/runs/{run_id}/journal"),
            "result": await client.get(f"/v1/result/{run_id}"),
            "why": await client.get(f"/v1/runs/{run_id}/why"),
            "components": await client.get("/v1/components"),
            "resolve_wait": await client.post(f"/v1/runs/{run_id}/waits/1/resolve", 1),
            "signal": await client.post(f"/v1/runs/{run_id}/signals/go", 1),
            "cancel": await client.post(f"/v1/runs/{run_id}/cancel", {}),
            "query": await client.post("/v1/query", {"sql": "SELECT * FROM runs"}),
            "analytics": await client.get("/v1/analytics/tokens?from=7d"),
            "archive": await client.get("/v1/archive"),
            "archive_flush": await client.ask("POST", "/v1/archive/flush"),
            "archive_verify": await client.ask("POST", "/v1/archive/verify"),
            "healthz": await client.get("/healthz"),
        }.items():
            check(name, answer)
        served = await client.get("/openapi.json")
    assert served.json == DOCUMENT
