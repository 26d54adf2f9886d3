"""The store is down, slow, wrong or lies: runs stay hot and seen, and are archived afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine.archive.archive import open_archive
from engine.archive.moving.flusher import Flusher
from engine.archive.services import Backoff
from engine.base import limits
from engine.base.clock import ManualClock
from engine.base.errors import (
    ArchiveDamaged,
    ArchiveRefused,
    ArchiveUnreachable,
    EngineError,
)
from engine.config.archive import ArchiveSettings
from engine.journal.layout import FINISHED_TAG
from tests.archive import faulty_proxy as faults
from tests.archive.faulty_proxy import FaultyProxy
from tests.archive.house import ACME, House
from tests.archive.lives import write_runs
from tests.archive.s3_server import S3Server
from tests.journal.harness import journal_at


@asynccontextmanager
async def house_at(data_dir: Path, settings: ArchiveSettings) -> AsyncIterator[House]:
    clock = ManualClock()
    async with (
        journal_at(data_dir, clock=clock) as journals,
        journals.use(ACME) as journal,
        open_archive(settings, data_dir, clock, services=False) as archive,
    ):
        yield House(journal, archive, archive.tenant_opened(journal), clock, data_dir)


def waiting(house: House) -> int:
    return len(list(house.journal.rows(FINISHED_TAG)))


@pytest.mark.parametrize("fault", [faults.DOWN, faults.ERROR])
async def test_down_and_back(
    tmp_path: Path, server: S3Server, proxy: FaultyProxy, fault: str
) -> None:
    async with house_at(tmp_path, server.settings(endpoint=proxy.endpoint)) as house:
        await house.archive.check()
        await write_runs(house.journal, 5)
        proxy.be(fault)
        with pytest.raises(ArchiveUnreachable, match="tried again"):
            await house.archive.flush_now(ACME)
        status = await house.archive.status(ACME)
        assert not status.reachable
        assert "tried again" in status.last_error
        assert waiting(house) == 5
        assert house.tenant.snapshot().hot_runs().num_rows == 5
        await write_runs(house.journal, 3, at_us=house.clock.now_us() + 1_000_000)

        proxy.be(faults.WELL)
        flushed = await house.archive.flush_now(ACME)
        assert flushed.runs == 8
        assert waiting(house) == 0
        assert (await house.archive.verify(ACME)).problems == ()


@pytest.mark.parametrize("data_set", ["journal", "steps", "runs"])
@pytest.mark.parametrize("fault", [faults.SWALLOWED, faults.CUT])
async def test_an_upload_that_only_looks_done(
    tmp_path: Path, server: S3Server, proxy: FaultyProxy, fault: str, data_set: str
) -> None:
    """Gate 1 sees it: nothing is acknowledged, and the same batch is uploaded again."""
    async with house_at(tmp_path, server.settings(endpoint=proxy.endpoint)) as house:
        await house.archive.check()
        await write_runs(house.journal, 5)
        proxy.when("PUT", f"/{data_set}/", fault)
        # A store that checks what it gets, as moto does not, refuses half of it by itself.
        with pytest.raises((ArchiveDamaged, ArchiveUnreachable)):
            await house.archive.flush_now(ACME)
        assert waiting(house) == 5
        assert list(house.tenant.snapshot().run_files) == []
        (planned,) = house.tenant.manifest._batches.values()

        proxy.be(faults.WELL)
        await house.archive.flush_now(ACME)
        assert [batch.batch_id for batch in house.tenant.manifest._batches.values()] == [
            planned.batch_id
        ]
        assert (await house.archive.verify(ACME)).problems == ()


async def test_a_multipart_upload_that_breaks_off(
    tmp_path: Path, server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.archive.store.opening import open_store

    store = open_store(server.settings(endpoint=proxy.endpoint), tmp_path)
    store.ensure_ready()
    file = tmp_path / "file"
    file.write_bytes(bytes(2 * limits.archive_part_bytes + 1))
    proxy.when("PUT", "partNumber=2", faults.DOWN)
    with pytest.raises(ArchiveUnreachable):
        store.put("runs/large", file)
    assert store.size("runs/large") is None
    assert list(store.list("runs/")) == []
    proxy.be(faults.WELL)
    store.put("runs/large", file)
    assert store.size("runs/large") == 2 * limits.archive_part_bytes + 1
    store.close()


async def test_slow_but_it_answers(tmp_path: Path, server: S3Server, proxy: FaultyProxy) -> None:
    """Meanwhile the tenant goes on, and its runs are seen."""
    async with house_at(tmp_path, server.settings(endpoint=proxy.endpoint)) as house:
        await house.archive.check()
        await write_runs(house.journal, 5)
        proxy.when("PUT", "/runs/", faults.LATE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.archive.flush_now, ACME)
            await trio.to_thread.run_sync(proxy.held.wait, 20)
            await write_runs(house.journal, 2, at_us=house.clock.now_us() + 1_000_000)
            assert house.tenant.snapshot().hot_runs().num_rows == 7
            proxy.let_go.set()
        assert waiting(house) == 2  # they ended after the flush had begun
        await house.archive.flush_now(ACME)
        assert waiting(house) == 0


async def test_too_slow(tmp_path: Path, server: S3Server, proxy: FaultyProxy) -> None:
    settings = server.settings(endpoint=proxy.endpoint, request_timeout_ms=200)
    async with house_at(tmp_path, settings) as house:
        await house.archive.check()
        await write_runs(house.journal, 5)
        proxy.be(faults.LATE)
        with pytest.raises(ArchiveUnreachable):
            await house.archive.flush_now(ACME)
        assert waiting(house) == 5


async def test_no_bucket(tmp_path: Path, server: S3Server) -> None:
    async with house_at(tmp_path, server.settings(create_bucket=False)) as house:
        await write_runs(house.journal, 1)
        with pytest.raises(ArchiveRefused, match="no bucket"):
            await house.archive.check()
        assert "no bucket" in house.archive.problem
        with pytest.raises(ArchiveRefused, match="no bucket"):
            await house.archive.flush_now(ACME)
        assert waiting(house) == 1


@pytest.mark.parametrize(
    ("code", "status", "error", "says"),
    [
        ("InvalidAccessKeyId", 403, ArchiveRefused, "archive.access_key"),
        ("SignatureDoesNotMatch", 403, ArchiveRefused, "archive.secret_key"),
        ("ExpiredToken", 400, ArchiveRefused, "archive.session_token"),
        ("RequestTimeTooSkewed", 403, ArchiveRefused, "set the clock"),
        ("BadDigest", 400, ArchiveUnreachable, "tried again"),
        ("AccessDenied", 403, ArchiveRefused, "denies access"),
        ("SlowDown", 503, ArchiveUnreachable, "tried again"),
        ("InvalidRequest", 400, ArchiveRefused, "archive.region"),
    ],
)
async def test_what_the_store_says_becomes_what_to_do(
    tmp_path: Path, code: str, status: int, error: type[EngineError], says: str
) -> None:
    from tests.archive.refusing_store import refusing_store

    with refusing_store(code, status) as endpoint:
        settings = ArchiveSettings(
            url="s3://bucket/prefix", endpoint=endpoint, access_key="wrong", secret_key="wrong"
        )
        async with house_at(tmp_path, settings) as house:
            await write_runs(house.journal, 1)
            with pytest.raises(error, match=says):
                await house.archive.flush_now(ACME)
            assert waiting(house) == 1
            assert house.tenant.snapshot().hot_runs().num_rows == 1


async def test_the_service_goes_on_when_the_store_is_back(
    tmp_path: Path, server: S3Server, proxy: FaultyProxy
) -> None:
    async with house_at(tmp_path, server.settings(endpoint=proxy.endpoint)) as house:
        await house.archive.check()
        flusher = Flusher(
            {ACME: house.tenant}, house.tenant.builder, interval_ms=10, clock=house.clock
        )
        await write_runs(house.journal, 5)
        proxy.be(faults.DOWN)
        assert not await flusher.run_once()
        assert flusher.backoff.delay_ms == limits.archive_backoff_ms_min
        status = await house.archive.status(ACME)
        assert (status.reachable, status.waiting_runs) == (False, 5)
        assert "does not answer" in status.last_error

        proxy.be(faults.WELL)
        assert await flusher.run_once()
        assert flusher.backoff.delay_ms == 0
        status = await house.archive.status(ACME)
        assert (status.reachable, status.waiting_runs, status.archived_runs) == (True, 0, 5)
        assert status.last_error == ""


def test_backing_off_has_an_end() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.failed()
    assert backoff.delay_ms == limits.archive_backoff_ms_max
    backoff.succeeded()
    assert backoff.delay_ms == 0


async def test_a_backlog_is_caught_up_in_batches(
    tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "archive_batch_runs_max", 10)
    async with house_at(tmp_path, server.settings()) as house:
        await house.archive.check()
        await write_runs(house.journal, 35)
        seen: list[tuple[int, int]] = []
        house.tenant.on_step = lambda step: seen.append(
            (house.tenant.progress.backfill_done, house.tenant.progress.backfill_total)
        )
        flushed = await house.archive.flush_now(ACME)
        assert (flushed.runs, flushed.batches) == (35, 4)
        assert seen[0] == (0, 35)
        assert seen[-1] == (30, 35)
        assert (await house.archive.status(ACME)).backfilling is False
