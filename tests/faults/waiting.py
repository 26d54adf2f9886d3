"""Waits for what the journal does by itself and tells nobody: a child asks until it is so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from engine.journal.tenants import Journal

_WAIT_S_MAX: Final = 10
_ASK_EVERY_S: Final = 0.05


async def wait_until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(_WAIT_S_MAX):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(_ASK_EVERY_S)


async def wait_until_resumed(journal: Journal) -> None:
    """Until no open tenant is stopped. Nothing is called: the journal looks by itself."""
    opened = journal.open_tenants()
    await wait_until(lambda: all(tenant.committer.stopped_by is None for tenant in opened))
