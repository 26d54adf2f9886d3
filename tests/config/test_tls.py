"""The certificate of a runtime: what is read, and what is said where it cannot be used."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from engine.base.errors import InvalidEndpoint, InvalidSettings
from engine.config.settings import load_settings
from engine.config.tls import server_context
from engine.sdk.tls import client_context
from tests.certificates import self_signed


def test_without_a_certificate_the_doors_are_plain() -> None:
    assert server_context("", "", ["h2"]) is None


def test_a_certificate_and_its_key(tmp_path: Path) -> None:
    made = self_signed(tmp_path, "engine", alternatives="DNS:engine.test")
    context = server_context(str(made.certificate), str(made.key), ["h2"])
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("given", "missing"), [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")]
)
def test_one_without_the_other_is_refused_by_name(given: str, missing: str) -> None:
    with pytest.raises(InvalidSettings, match=f"`{missing}` is missing: TLS needs it beside"):
        load_settings(environment={f"ENGINE_{given.upper()}": "x.pem"}, flags={})


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    made = self_signed(tmp_path, "engine", alternatives="DNS:engine.test")
    other = self_signed(tmp_path, "other", alternatives="DNS:engine.test")
    with pytest.raises(InvalidSettings, match=r"the certificate .*engine\.pem with the key"):
        server_context(str(made.certificate), str(other.key), ["h2"])
    with pytest.raises(InvalidSettings, match="No such file"):
        server_context(str(tmp_path / "none.pem"), str(made.key), ["h2"])


def test_a_client_verifies_names_whatever_it_trusts(tmp_path: Path) -> None:
    made = self_signed(tmp_path, "engine", alternatives="DNS:engine.test")
    for ca_file in (None, made.certificate):
        context = client_context("https://engine.test", ca_file)
        assert context is not None
        assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert client_context("http://engine.test", None) is None


def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for endpoint, ca_file, words in (
        ("https://engine.test", tmp_path / "none.pem", "No such file"),
        ("https://engine.test", Path(__file__), "a file of certificates in PEM form"),
        ("http://engine.test", tmp_path, "write https://, or leave ca_file out"),
    ):
        with pytest.raises(InvalidEndpoint, match=words):
            client_context(endpoint, ca_file)
