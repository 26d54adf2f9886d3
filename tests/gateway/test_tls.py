"""The gateway behind TLS: every way in works as without, and who does not speak it gets nowhere."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from engine.base.ids import run_id_text
from engine.config.tls import server_context
from tests.certificates import Certificate, self_signed
from tests.gateway.client import NOT_PLAIN, Client
from tests.gateway.conftest import RunningGateway, running
from tests.gateway.fake_handle import ECHO, WAIT


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    return self_signed(folder, "engine", alternatives="IP:127.0.0.1,DNS:engine.test")


@pytest.fixture
async def encrypted(certificate: Certificate) -> AsyncIterator[RunningGateway]:
    files = str(certificate.certificate), str(certificate.key)
    async with running(tls=server_context(*files, ["http/1.1"]), graceful_stop_s=2) as gateway:
        yield gateway


@asynccontextmanager
async def dialed(
    gateway: RunningGateway,
    certificate: Certificate,
    *headers: tuple[str, str],
    name: str = "engine.test",
) -> AsyncIterator[Client]:
    context = ssl.create_default_context(cafile=certificate.certificate)
    wire = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    async with trio.SSLStream(wire, context, server_hostname=name, https_compatible=True) as stream:
        yield Client(stream, headers)  # type: ignore[arg-type]


@pytest.mark.parametrize("headers", [[], [NOT_PLAIN]], ids=["plain", "hypercorn"])
async def test_requests_one_after_the_other_on_one_connection(
    encrypted: RunningGateway, certificate: Certificate, headers: list[tuple[str, str]]
) -> None:
    """`authenticate` of these tests asserts that the client's own address is what it is told."""
    async with dialed(encrypted, certificate, *headers) as client:
        for value in ({"order": 12}, "x" * 1_000_000):
            answer = await client.post(f"/v1/workflows/{ECHO}/run", value)
            assert (answer.status, answer.json["output"]) == (200, value)


async def test_a_stream_of_events_comes_as_it_happens(
    encrypted: RunningGateway, certificate: Certificate
) -> None:
    async with (
        dialed(encrypted, certificate) as watching,
        dialed(encrypted, certificate) as client,
    ):
        await watching.send("POST", f"/v1/workflows/{WAIT}/stream", b"1")
        status, _ = await watching.read_head()
        assert status == 200
        seen = await watching.read_piece()
        run = encrypted.handle.only_run()
        answer = await client.post(f"/v1/runs/{run_id_text(run.run_id)}/signals/go", 5)
        assert answer.status < 300
        while piece := await watching.read_piece():
            seen += piece
    assert b"event: run.completed" in seen


async def test_a_client_that_expects_another_name_leaves(
    encrypted: RunningGateway, certificate: Certificate
) -> None:
    async with dialed(encrypted, certificate, name="elsewhere.test") as client:
        with pytest.raises(trio.BrokenResourceError) as broken:
            await client.get("/healthz")
        assert isinstance(broken.value.__cause__, ssl.SSLCertVerificationError)
    async with dialed(encrypted, certificate) as client:
        assert (await client.get("/healthz")).status == 200, "the others are served"


async def test_plain_http_gets_no_answer(encrypted: RunningGateway) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", encrypted.port)
    async with stream:
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        try:
            while piece := await stream.receive_some():
                said += piece
        except trio.BrokenResourceError:
            pass
    assert b"HTTP/" not in said


async def test_a_handshake_that_is_not_finished_is_let_go_of(certificate: Certificate) -> None:
    files = str(certificate.certificate), str(certificate.key)
    tls = server_context(*files, ["http/1.1"])
    async with running(tls=tls, read_stall_s_max=0.2, keep_alive_s=0.2, sweep_s=0.05) as gateway:
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        async with stream:
            assert await stream.receive_some() == b"", "it was hung up on"


async def test_stopping_lets_a_request_finish(
    encrypted: RunningGateway, certificate: Certificate
) -> None:
    async with dialed(encrypted, certificate) as client:
        assert (await client.get("/healthz")).status == 200
        encrypted.stop.set()
        with trio.fail_after(5):
            await encrypted.stopped.wait()
