"""What every object store does, whichever it is; and what each alone has to say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.archive.store import local
from engine.archive.store.opening import open_store
from engine.archive.store.stores import FoundObject, ObjectStore
from engine.base.errors import (
    ArchiveDamaged,
    ArchiveRefused,
    ArchiveUnreachable,
    InvalidSettings,
)
from engine.base.limits import MIB
from engine.config.archive import ArchiveSettings
from tests.archive.s3_server import S3Server, free_port

KEY = "runs/tenant=acme/day=2026-01-01/runs-0001.parquet"


def file_of(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


def test_what_was_put_is_there(store: ObjectStore, tmp_path: Path) -> None:
    assert store.size(KEY) is None
    store.put(KEY, file_of(tmp_path, b"0123456789"))
    assert store.size(KEY) == 10
    assert store.read(KEY, 2, 5) == b"23456"
    assert store.read(KEY, 0, 0) == b""


def test_putting_again_replaces(store: ObjectStore, tmp_path: Path) -> None:
    store.put(KEY, file_of(tmp_path, b"first"))
    store.put(KEY, file_of(tmp_path, b"the second"))
    assert store.read(KEY, 0, 10) == b"the second"


def test_an_empty_and_a_large_object(store: ObjectStore, tmp_path: Path) -> None:
    large = os.urandom(20 * MIB)  # of more than one part
    store.put("large", file_of(tmp_path, large))
    assert store.size("large") == len(large)
    assert store.read("large", 18 * MIB, 1_000) == large[18 * MIB : 18 * MIB + 1_000]
    store.put("empty", file_of(tmp_path, b""))
    assert store.size("empty") == 0


def test_reading_more_than_there_is(store: ObjectStore, tmp_path: Path) -> None:
    store.put(KEY, file_of(tmp_path, b"short"))
    with pytest.raises(ArchiveDamaged):
        store.read(KEY, 0, 6)
    with pytest.raises(ArchiveDamaged, match="is missing"):
        store.read("runs/nothing", 0, 1)


def test_listing(store: ObjectStore, tmp_path: Path) -> None:
    for tenant in ("acme", "acme-2", "other"):
        for day in ("2026-01-01", "2026-01-02"):
            key = f"runs/tenant={tenant}/day={day}/runs-1.parquet"
            store.put(key, file_of(tmp_path, tenant.encode()))
    assert list(store.list("runs/tenant=acme/")) == [
        FoundObject("runs/tenant=acme/day=2026-01-01/runs-1.parquet", 4),
        FoundObject("runs/tenant=acme/day=2026-01-02/runs-1.parquet", 4),
    ]
    assert len(list(store.list("runs/"))) == 6
    assert list(store.list("steps/")) == []
    assert sorted(store.list_folders("runs")) == ["tenant=acme", "tenant=acme-2", "tenant=other"]
    assert list(store.list_folders("steps")) == []


def test_deleting(store: ObjectStore, tmp_path: Path) -> None:
    keys = [f"runs/tenant=acme/{number}" for number in range(5)]
    for key in keys:
        store.put(key, file_of(tmp_path, b"x"))
    store.delete(keys[:4])
    store.delete(keys[:4])  # again is fine
    store.delete([])
    assert [found.key for found in store.list("runs/")] == keys[4:]


# ---- the directory ----


def test_a_file_that_is_not_whole_is_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(ArchiveSettings(), tmp_path)
    store.ensure_ready()

    def cut_short(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:3])
        raise OSError("pulled the plug")

    monkeypatch.setattr(local.shutil, "copyfile", cut_short)
    with pytest.raises(ArchiveUnreachable):
        store.put(KEY, file_of(tmp_path, b"whole"))
    assert store.size(KEY) is None
    assert list(store.list("runs/")) == []


def test_the_directory_can_be_chosen(tmp_path: Path) -> None:
    store = open_store(ArchiveSettings(url=str(tmp_path / "elsewhere")), tmp_path)
    store.ensure_ready()
    assert store.uri(KEY) == str(tmp_path / "elsewhere" / "engine" / KEY)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file is in the way")
    with pytest.raises(ArchiveRefused, match=r"archive\.url"):
        open_store(ArchiveSettings(), tmp_path).ensure_ready()


# ---- settings ----


@pytest.mark.parametrize(
    ("url", "endpoint", "named"),
    [
        ("gs://bucket/prefix", "", "archive.url"),
        ("s3:///prefix", "", "archive.url"),
        ("s3://b", "", "archive.url names the bucket 'b'.* 3 to 63 "),
        ("s3://Bucket", "", "archive.url names the bucket 'Bucket'.* lower-case"),
        ("s3://under_score", "", "archive.url names the bucket"),
        ("s3://two..dots", "", "archive.url names the bucket 'two..dots'.* no dot beside a dot"),
        ("s3://dot.-hyphen", "", "archive.url names the bucket"),
        ("s3://-begins", "", "archive.url names the bucket"),
        ("s3://ends-", "", "archive.url names the bucket"),
        ("s3://127.0.0.1/prefix", "", "archive.url names the bucket.* not an IP address"),
        (f"s3://{'b' * 64}", "", "archive.url names the bucket"),
        ("s3://bucket/../other", "", "archive.url has the prefix '../other'"),
        ("s3://bucket/a//b", "", "archive.url has the prefix 'a//b'"),
        ("s3://bucket/prefix", "minio:9000", "archive.endpoint"),
        ("s3://bucket/prefix", "http://minio:9000/path", "archive.endpoint"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    tmp_path: Path, url: str, endpoint: str, named: str
) -> None:
    with pytest.raises(InvalidSettings, match=named):
        open_store(ArchiveSettings(url=url, endpoint=endpoint), tmp_path)


@pytest.mark.parametrize("bucket", ["abc", "a-b.c-d", "2026--runs", "x" * 63, "1.2.3"])
def test_bucket_names_that_there_are(tmp_path: Path, bucket: str) -> None:
    assert open_store(ArchiveSettings(url=f"s3://{bucket}"), tmp_path).shown_url == (
        f"s3://{bucket}/engine"
    )


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    settings = ArchiveSettings(url="s3://bucket", endpoint="https://x", ca_file=str(wrong))
    with pytest.raises(InvalidSettings, match="ca_file"):
        open_store(settings, tmp_path)


def test_how_a_bucket_is_addressed(tmp_path: Path) -> None:
    def path_style(**changes: object) -> bool:
        settings = ArchiveSettings(url="s3://bucket", **changes)  # type: ignore[arg-type]
        access = open_store(settings, tmp_path).access
        assert access is not None
        return access.path_style

    assert path_style(endpoint="http://minio:9000")
    assert not path_style()  # AWS
    assert path_style(path_style="always")
    assert not path_style(endpoint="http://minio:9000", path_style="never")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = ArchiveSettings(
        url="s3://bucket", access_key="AKIA-public", secret_key="hush", session_token="also-hush"
    )
    store = open_store(settings, tmp_path)
    assert store.shown_url == "s3://bucket/engine"
    assert "hush" not in repr(store.access)


# ---- S3 ----


def test_the_bucket_is_made_only_if_it_may(server: S3Server, tmp_path: Path) -> None:
    settings = server.settings(create_bucket=False)
    with pytest.raises(ArchiveRefused, match=r"archive\.create_bucket"):
        open_store(settings, tmp_path).ensure_ready()
    allowed = server.settings(url=settings.url)
    open_store(allowed, tmp_path).ensure_ready()
    open_store(allowed, tmp_path).ensure_ready()  # it is there already
    open_store(settings, tmp_path).ensure_ready()


def test_nobody_listens(server: S3Server, tmp_path: Path) -> None:
    settings = server.settings(endpoint=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ArchiveUnreachable, match="does not answer"):
        open_store(settings, tmp_path).ensure_ready()


def test_uris(server: S3Server, tmp_path: Path) -> None:
    store = open_store(server.settings(url="s3://bucket/a/b"), tmp_path)
    assert store.uri(KEY) == f"s3://bucket/a/b/{KEY}"
