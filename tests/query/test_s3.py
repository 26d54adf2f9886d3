"""Over a real socket: an S3 server in another process, stores that fail, and the real archive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from bench.static_store import StaticStore, static_store
from engine.archive.snapshot import TenantSnapshot
from engine.base.clock import ManualClock
from engine.base.errors import ArchiveRefused, ArchiveUnreachable
from engine.base.ids import TenantId
from engine.model.query import AnalyticsFilter, Window
from engine.model.runs import RunStatus
from engine.model.views import RunFilter, RunPage
from engine.query.ports import StoreAccess
from tests.archive.house import ACME, House, open_house
from tests.archive.lives import NOW_US, completed, failed, new_ids, write_run, write_runs
from tests.archive.s3_server import S3Server, s3_server
from tests.certificates import self_signed
from tests.query.conftest import Reports, tier_over
from tests.query.lake import DAY_MS, JANUARY_MS, TENANT, Lake, run

COUNT = "SELECT count(*) FROM runs"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
async def house(server: S3Server, tmp_path: Path) -> AsyncIterator[House]:
    """The archive itself, with a bucket of that server."""
    settings = {name: value for name, value in settings_of(server).items() if value}
    async with open_house(tmp_path, ManualClock(), **settings) as opened:
        yield opened


def settings_of(server: S3Server) -> dict[str, object]:
    settings = server.settings()
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


def access_to(house: House) -> StoreAccess:
    access = house.archive.access
    assert access is not None
    return StoreAccess(
        root=house.archive.store.shown_url,
        endpoint=access.endpoint,
        secure=access.secure,
        access_key=access.access_key,
        secret_key=access.secret_key,
        region=access.region,
        path_style=access.path_style,
    )


async def test_the_real_archive_is_read_whole_before_between_and_after(house: House) -> None:
    """Hot; archived and still hot; archived alone: every run is there, once, in each of them."""
    written = await write_runs(house.journal, 20)
    broken, waiting = new_ids(NOW_US)(), new_ids(NOW_US)()
    await write_run(house.journal, broken, failed())
    await write_run(house.journal, waiting, completed()[:-1])

    def snapshot_of(window: Window) -> TenantSnapshot:
        return house.tenant.snapshot(window)

    async with tier_over(access_to(house)) as tier:

        async def check() -> None:
            sql = "SELECT count(DISTINCT run_id), count(*), count(day) FROM runs"
            assert (await tier.run(ACME, sql, snapshot_of)).rows == ((22, 22, 21),)
            steps = "SELECT count(*) FROM steps JOIN runs USING (run_id) WHERE steps.kind = 'step'"
            assert (await tier.run(ACME, steps, snapshot_of)).rows == ((22 * 3,),)
            errors = await tier.analytics(ACME, "errors", AnalyticsFilter(), snapshot_of)
            assert [row[:3] for row in errors.rows] == [("card # declined", "card_declined", 1)]

        await check()
        await house.archive.flush_now(ACME)
        await write_runs(house.journal, 0)
        await check()
        house.clock.advance_us(2 * 3_600_000_000)
        await house.archive.retain_now(ACME)
        await check()

        chosen = RunFilter(limit=8, status=RunStatus.COMPLETED)
        seen: list[str] = []
        page = RunPage(())
        while page.next_cursor or not seen:
            chosen = RunFilter(limit=8, status=RunStatus.COMPLETED, cursor=page.next_cursor)
            page = await tier.list_runs(ACME, chosen, RunPage(()), house.tenant.snapshot())
            seen += [view.run_id for view in page.runs]
        assert seen == sorted(written, reverse=True)
        assert page.runs[0].status == "COMPLETED"
        assert page.runs[0].kind == "workflow"
        assert page.runs[0].component == "checkout"

        arrow = await tier.run_arrow(ACME, "FROM runs", snapshot_of)
        assert pa.ipc.open_stream(arrow.stream).read_all().num_rows == 22


async def test_an_object_that_the_bucket_has_lost_is_named(house: House) -> None:
    for day in range(2):
        await write_runs(house.journal, 5, at_us=NOW_US + day * 86_400_000_000)
    await house.archive.flush_now(ACME)
    lost = house.tenant.snapshot().run_files[0]
    house.archive.store.delete([lost.removeprefix(house.archive.store.shown_url + "/")])
    reports = Reports()
    async with tier_over(access_to(house), reports) as tier:
        answer = await tier.run(ACME, COUNT, lambda _: house.tenant.snapshot())
    assert answer.rows == ((5,),)
    (skipped,) = answer.skipped
    assert "day=2026-01-01" in skipped
    assert "not there any more" in skipped
    assert [file for _, file, _ in reports] == [lost]


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[StaticStore, Lake, StoreAccess]]:
    lake = Lake(tmp_path / "bucket" / "engine", "s3://bucket/engine")
    lake.add_runs([run(JANUARY_MS + day * DAY_MS) for day in range(3)])
    lake.hot = [run(JANUARY_MS, took_ms=None)]
    with static_store(tmp_path) as store:
        yield (
            store,
            lake,
            StoreAccess(
                root=lake.root,
                endpoint=store.endpoint,
                access_key="AKIAKEY",
                secret_key="secret",
                secure=False,
            ),
        )


@pytest.mark.parametrize(
    ("status", "error"),
    [(503, ArchiveUnreachable), (500, ArchiveUnreachable), (403, ArchiveRefused)],
)
async def test_a_store_that_fails_is_an_error_and_no_short_answer(
    bucket: tuple[StaticStore, Lake, StoreAccess],
    status: int,
    error: type[Exception],
    reports: Reports,
) -> None:
    """Nothing is left out silently, nobody's file is called damaged, and once it is back it is."""
    store, lake, access = bucket
    async with tier_over(access, reports) as tier:
        store.answer_all_with(status)
        for asked in (
            lambda: tier.run(TENANT, COUNT, lake.snapshot),
            lambda: tier.list_runs(TENANT, RunFilter(), RunPage(()), lake.snapshot()),
        ):
            with pytest.raises(error) as caught:
                await asked()
            assert store.endpoint not in str(caught.value)
            assert "AKIAKEY" not in str(caught.value)
        assert reports == []
        store.answer_all_with(0)
        assert (await tier.run(TENANT, COUNT, lake.snapshot)).rows == ((4,),)


async def test_a_short_object_is_named_and_the_others_answer(
    bucket: tuple[StaticStore, Lake, StoreAccess], reports: Reports
) -> None:
    _, lake, access = bucket
    path = lake.path(lake.run_files[0])
    path.write_bytes(path.read_bytes()[:-100])
    async with tier_over(access, reports) as tier:
        answer = await tier.run(TENANT, COUNT, lake.snapshot)
    assert answer.rows == ((3,),)
    assert [file for _, file, _ in reports] == [lake.run_files[0]]


async def test_over_tls_the_store_has_to_prove_who_it_is(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "bucket" / "engine", "s3://bucket/engine")
    lake.add_runs([run(JANUARY_MS)])
    made = self_signed(tmp_path, "store", alternatives="DNS:localhost,IP:127.0.0.1")
    with static_store(tmp_path, made.certificate, made.key) as store:
        access = StoreAccess(root=lake.root, endpoint=store.endpoint, ca_file=str(made.certificate))
        async with tier_over(access) as tier:
            assert (await tier.run(TENANT, COUNT, lake.snapshot)).rows == ((1,),)
        async with tier_over(msgspec.structs.replace(access, ca_file="")) as tier:
            with pytest.raises(ArchiveUnreachable, match="certificate"):
                await tier.run(TENANT, COUNT, lake.snapshot)


async def test_only_the_tenants_own_objects_are_asked_for(
    bucket: tuple[StaticStore, Lake, StoreAccess],
) -> None:
    store, lake, access = bucket
    other = TenantId("umbra")
    lake.add_runs([run(JANUARY_MS)], tenant=other)
    store.take_requests()
    async with tier_over(access) as tier:
        await tier.run(TENANT, "SELECT count(COLUMNS(*)) FROM runs", lake.snapshot)
    requests = store.take_requests()
    assert requests
    assert all("/engine/runs/tenant=acme/day=" in request for request in requests)


async def test_a_day_asked_for_reads_its_columns_alone(
    bucket: tuple[StaticStore, Lake, StoreAccess],
) -> None:
    """The partition of a file is known from its name: of other days only the footer is read."""
    store, lake, access = bucket
    async with tier_over(access) as tier:
        await tier.run(TENANT, COUNT, lake.snapshot)  # the footers
        store.take_requests()
        sql = "SELECT sum(duration_ms) FROM runs WHERE day = '2026-01-02'"
        assert (await tier.run(TENANT, sql, lake.snapshot)).rows == ((1_000,),)
    assert {one for one in store.take_requests() if "2026-01-02" not in one} == set()
