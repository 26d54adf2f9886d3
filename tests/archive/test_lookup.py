"""One archived run by its id, over S3: what is asked of the store for it, and what is said when an
object is not what the manifest says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.base.errors import ArchiveDamaged
from engine.base.ids import parse_run_id
from tests.archive.faulty_proxy import FaultyProxy
from tests.archive.house import ACME, HOUR_US, House, open_house
from tests.archive.lives import NOW_US, new_ids, write_runs
from tests.archive.s3_server import S3Server
from tests.archive.test_flow import bytes_of

BATCHES = 3


class Archived:
    """A tenant with some batches in a bucket, and the requests that its store gets."""

    def __init__(self, house: House, proxy: FaultyProxy) -> None:
        self.house = house
        self.proxy = proxy
        self.written: list[dict[str, list[bytes]]] = []

    async def fill(self) -> None:
        for number in range(BATCHES):
            at_us = NOW_US + number * HOUR_US
            self.written.append(await write_runs(self.house.journal, 5, at_us=at_us))
            await self.house.archive.flush_now(ACME)
        self.proxy.requests.clear()

    def take_requests(self) -> list[str]:
        taken = [f"{method} {path.split('/')[-4]}" for method, path in self.proxy.requests]
        self.proxy.requests.clear()
        return taken


@pytest.fixture
async def archived(
    tmp_path_factory: pytest.TempPathFactory, server: S3Server, proxy: FaultyProxy
) -> AsyncIterator[Archived]:
    settings = server.settings(endpoint=proxy.endpoint)
    named = {name: getattr(settings, name) for name in settings.__struct_fields__}
    async with open_house(tmp_path_factory.mktemp("house"), **named) as house:
        made = Archived(house, proxy)
        await made.fill()
        yield made


async def test_one_request_for_a_run(archived: Archived) -> None:
    """Neither the other batches nor the other objects of its batch are asked for, nor its size."""
    for text, values in archived.written[1].items():
        found = await archived.house.archive.lookup(ACME, parse_run_id(text))
        assert found is not None
        assert bytes_of(found.records) == values
        assert archived.take_requests() == ["GET journal"]


async def test_no_request_for_a_run_that_no_batch_can_have(archived: Archived) -> None:
    assert await archived.house.archive.lookup(ACME, new_ids(NOW_US + 90 * HOUR_US)()) is None
    assert archived.take_requests() == []


@pytest.mark.parametrize("left", [0, 900])
async def test_an_object_that_is_shorter_than_it_was(archived: Archived, left: int) -> None:
    house = archived.house
    (batch, *_) = house.tenant.manifest.acknowledged_in(house.journal.snapshot())
    cut = house.data_dir / "cut"
    cut.write_bytes(b"x" * left)
    house.archive.store.put(batch.key(ACME, "journal"), cut)
    run = next(text for written in archived.written for text in written if _in(batch, text))
    with pytest.raises(ArchiveDamaged, match=r"shorter than it must be|bytes where"):
        await house.archive.lookup(ACME, parse_run_id(run))


def _in(batch: object, text: str) -> bool:
    found: bool = batch.may_have(parse_run_id(text))  # type: ignore[attr-defined]
    return found
