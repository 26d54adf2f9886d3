"""Who asks is settled before anything is read, on every route and either way in; and what has come
of bodies is counted, for everybody by himself."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from engine.base.errors import RateLimited
from engine.gateway.api import routes
from engine.gateway.api.problems import NotReady
from engine.gateway.door import door as door_module
from engine.gateway.door.bodies import Bodies, patience_s
from engine.gateway.settings import GatewaySettings
from tests.gateway.client import NOT_PLAIN, Client
from tests.gateway.conftest import OTHER_KEY, REFUSED_KEY, Connect, RunningGateway, running
from tests.gateway.fake_handle import ECHO

CLOSED = [route for route in routes.ROUTES if not route.is_open]
OPEN = [route for route in routes.ROUTES if route.is_open and route.name != "webhook"]
LARGE = 1_000_000


def path_of(route: routes.Route) -> str:
    path = route.pattern.replace("{kind}", "workflow").replace("{component}", ECHO)
    path = path.replace("{run_id}", "01890a5d-ac96-774b-bcce-b302099a8057")
    return re.sub(r"{\w+}", "x", path)


# ---- who asks ----


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_no_route_is_answered_without_a_key(
    gateway: RunningGateway, connect: Connect, route: routes.Route
) -> None:
    for headers in ({"X-API-Key": REFUSED_KEY}, {"Authorization": f"Bearer {REFUSED_KEY}"}):
        async with connect() as client:
            answer = await client.ask(route.method, path_of(route), b"{}", headers)
        assert (answer.status, answer.json["code"]) == (401, "unauthorized")
    assert gateway.handle.contexts == []


@pytest.mark.parametrize("route", OPEN, ids=lambda route: route.name)
async def test_an_open_route_asks_nobody(connect: Connect, route: routes.Route) -> None:
    async with connect() as client:
        answer = await client.ask(route.method, path_of(route), headers={"X-API-Key": REFUSED_KEY})
    assert answer.status == 200


@pytest.mark.parametrize("length", [LARGE, None])
@pytest.mark.parametrize(
    "route", [route for route in CLOSED if route.method == "POST"], ids=lambda route: route.name
)
async def test_no_body_is_awaited_from_who_may_not_ask(
    connect: Connect, route: routes.Route, length: int | None
) -> None:
    async with connect() as client:
        await client.send_head(
            "POST", path_of(route), length=length, headers={"X-API-Key": REFUSED_KEY}
        )
        status, _ = await client.read_head()
    assert status == 401


async def test_a_second_credential_does_not_help(gateway: RunningGateway) -> None:
    async with (
        running(requests_per_s_max=0.001, requests_burst_max=1) as strict,
        strict.client() as client,
    ):
        found = [
            (await client.get("/v1/runs", Authorization=f"Basic {n}", X_API_Key=OTHER_KEY)).status
            for n in range(3)
        ]
    assert found == [200, 429, 429]


# ---- bodies ----


@pytest.mark.parametrize("headers", [[], [NOT_PLAIN]], ids=["plain", "hypercorn"])
@pytest.mark.parametrize("length", [LARGE, None])
async def test_bytes_are_counted_that_came_for_who_sent_them(
    monkeypatch: pytest.MonkeyPatch, headers: list[tuple[str, str]], length: int | None
) -> None:
    """Tenant A sends three large bodies and ends none: B's is taken all the same."""
    monkeypatch.setattr(door_module, "bodies_bytes_max", 1_000_000)
    monkeypatch.setattr(door_module, "bodies_share_bytes_max", 250_000)
    path = f"/v1/workflows/{ECHO}/run"
    async with running() as gateway, AsyncExitStack() as stack:
        for _ in range(30):  # that only announce
            client = await stack.enter_async_context(gateway.client(*headers))
            await client.send_head("POST", path, length=length)
        greedy = [await stack.enter_async_context(gateway.client(*headers)) for _ in range(3)]
        for client in greedy[:2]:
            await client.send_head("POST", path, length=length)
            await client.send_piece(b" " * 100_000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await greedy[2].send_head("POST", path, length=length)
        await greedy[2].send_piece(b" " * 100_000)
        status, found = await greedy[2].read_head()
        assert (status, found["retry-after"]) == (429, "1")
        other = await stack.enter_async_context(gateway.client(*headers, ("X-API-Key", OTHER_KEY)))
        assert (await other.post(path, "x" * 200_000)).status == 200


def test_a_body_is_given_back_whatever_becomes_of_it() -> None:
    bodies = Bodies(bytes_max=100)
    mine, yours = ("a", 60), ("b", 60)
    with bodies.holding([mine]) as held:
        held.add(50)
        with bodies.holding([mine, yours]) as other:
            with pytest.raises(RateLimited):
                other.add(11)
            other.add(10)
            assert (bodies.held_bytes, bodies.held_by("a"), bodies.held_by("b")) == (60, 60, 10)
        with bodies.holding([yours]) as other:
            with pytest.raises(NotReady):
                other.add(51)
            other.add(50)
            assert bodies.held_bytes == 100
    assert (bodies.held_bytes, bodies._held_by) == (0, {})


def test_a_body_has_to_keep_up() -> None:
    settings = GatewaySettings(body_patience_s=60, body_bytes_per_s_min=1_000, read_stall_s_max=30)
    assert patience_s(settings, 0, 0) == 30
    assert patience_s(settings, 0, 45) == 15
    assert patience_s(settings, 50_000, 100) == 10
    assert patience_s(settings, 50_000, 111) == 0


@pytest.mark.parametrize("headers", [[], [NOT_PLAIN]], ids=["plain", "hypercorn"])
async def test_a_body_that_drips_is_given_up(headers: list[tuple[str, str]]) -> None:
    async with (
        running(sweep_s=0.01, body_patience_s=0.2, body_bytes_per_s_min=1_000_000) as gateway,
        gateway.client(*headers) as client,
    ):
        await client.send_head("POST", f"/v1/workflows/{ECHO}/run", length=10_000)
        with pytest.raises(trio.BrokenResourceError):
            await drip(client)


async def drip(client: Client) -> None:
    with trio.fail_after(5):
        while True:
            await client.send_piece(b" ")
            await trio.sleep(0.02)
