"""`engine dev --s3`: what the settings become, and which keys count."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from engine.base.errors import InvalidSettings
from engine.cli.composing.buckets import archive_in_s3, is_loopback
from engine.cli.main import engine
from engine.config.archive import ArchiveSettings

HERE = "http://127.0.0.1:9000"
AWAY = "https://minio.example.com"
AWS = {
    "AWS_ACCESS_KEY_ID": "from-aws",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
}


def test_a_server_on_this_machine_needs_no_more() -> None:
    found = archive_in_s3(ArchiveSettings(), HERE, {})
    assert (found.url, found.endpoint) == ("s3://engine", HERE)
    assert (found.access_key, found.secret_key) == ("minioadmin", "minioadmin")
    assert found.create_bucket
    assert found.is_s3


def test_the_path_names_the_bucket() -> None:
    assert archive_in_s3(ArchiveSettings(), f"{HERE}/mine/runs/", {}).url == "s3://mine/runs"
    named = ArchiveSettings(url="s3://ours/x", flush_threshold=7)
    found = archive_in_s3(named, HERE, {})
    assert (found.url, found.flush_threshold) == ("s3://ours/x", 7), "what is set stays"


def test_keys_of_the_settings_then_of_aws() -> None:
    ours = ArchiveSettings(access_key="ours", secret_key="secret")
    assert archive_in_s3(ours, AWAY, AWS).access_key == "ours"
    found = archive_in_s3(ArchiveSettings(), AWAY, AWS)
    assert (found.access_key, found.secret_key, found.session_token) == (
        "from-aws",
        "secret",
        "token",
    )
    assert archive_in_s3(ArchiveSettings(), HERE, AWS).access_key == "from-aws"


def test_shipped_keys_are_not_shown_to_another_machine() -> None:
    with pytest.raises(InvalidSettings, match="ENGINE_ARCHIVE__ACCESS_KEY and"):
        archive_in_s3(ArchiveSettings(), AWAY, {})


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "s3://engine", "ftp://host", "http://", ""])
def test_what_is_no_url_is_refused_before_anything_starts(url: str) -> None:
    result = CliRunner().invoke(engine, ["dev", "--s3", url])
    assert result.exit_code == 2
    assert "write http://HOST:PORT" in result.output


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("minio.localhost", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("minio", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
