"""TLS with real processes: both doors, a worker and a client over https://, each checks names."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from engine.sdk import Client
from engine.sdk.errors import ConnectionLost
from tests.certificates import Certificate, self_signed
from tests.e2e.processes import PATIENCE_S, Processes, processes

SHARING = "tests.e2e.sharing"


@contextmanager
def encrypted(folder: Path, certificate: Certificate) -> Iterator[Processes]:
    environment = {
        "ENGINE_TLS_CERTIFICATE": str(certificate.certificate),
        "ENGINE_TLS_KEY": str(certificate.key),
    }
    with processes(folder, environment) as engine:
        engine.client.close()
        context = ssl.create_default_context(cafile=certificate.certificate)
        context.check_hostname = False  # of the tests' own asking; the product's is what is tested
        engine.client = httpx.Client(
            base_url=f"https://{engine.http}", verify=context, timeout=PATIENCE_S
        )
        engine.start_runtime()
        yield engine


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_over_tls(tmp_path: Path, backend: str) -> None:
    certificate = self_signed(tmp_path, "engine", alternatives="IP:127.0.0.1")
    with encrypted(tmp_path, certificate) as engine:
        assert f"clients at https://{engine.http}, workers at https://{engine.grpc}" in " ".join(
            engine.said().split()
        )
        endpoint, ca_file = f"https://{engine.grpc}", str(certificate.certificate)
        if backend == "asyncio":
            engine.start_worker(SHARING, "--ca-file", ca_file, endpoint=endpoint)
        else:
            engine.start_program("tests.e2e.on_trio", endpoint, ca_file)
        engine.wait_until(lambda: engine.workers_connected() == 1, "the worker is there")
        with Client(f"https://{engine.http}", ca_file=ca_file) as client:
            assert client.run("add", {"a": 1, "b": 2}, kind="function") == 3
        doctor = engine.run("doctor", "--http", engine.http, "--grpc", engine.grpc)
        assert f"a runtime answers at https://{engine.http}" in doctor
        assert f"workers connect to https://{engine.grpc}" in doctor
        with (
            Client(f"https://{engine.http}") as stranger,
            pytest.raises(ConnectionLost, match="certificate verify failed"),
        ):
            stranger.run("add", {"a": 1, "b": 2}, kind="function")


def test_a_worker_verifies_the_name_and_the_authority(tmp_path: Path) -> None:
    elsewhere = self_signed(tmp_path, "elsewhere", alternatives="DNS:elsewhere.test")
    unrelated = self_signed(tmp_path, "unrelated", alternatives="IP:127.0.0.1")
    with encrypted(tmp_path, elsewhere) as engine:
        endpoint = f"https://{engine.grpc}"
        engine.start_worker(SHARING, "--ca-file", str(elsewhere.certificate), endpoint=endpoint)
        engine.wait_until_said("IP address mismatch")
        engine.start_worker(SHARING, "--ca-file", str(unrelated.certificate), endpoint=endpoint)
        engine.wait_until_said("self-signed certificate")
        engine.start_worker(SHARING, endpoint=f"http://{engine.grpc}")
        engine.wait_until_said(f"http://{engine.grpc} cannot be reached")
        assert engine.workers_connected() == 0
        with (
            Client(f"https://{engine.http}", ca_file=elsewhere.certificate) as client,
            pytest.raises(ConnectionLost, match="IP address mismatch"),
        ):
            client.list()
