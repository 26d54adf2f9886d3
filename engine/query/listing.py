"""Lists of runs over both tiers, newest first, opening no more files than the page needs.

The order is that of the run ids, which begin with the time they were made at: it never changes, so
the last id of a page is the cursor of the next, whatever was added or moved meanwhile. A file holds
what ended on its day and before its batch was put together, so nothing that began later. So files
are read from the newest backwards, a few more each time, until no older one can hold anything newer
than what the page has. Knows no hot tier, whose page comes from the runtime, and no SQL.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from engine.base import limits
from engine.base.ids import RunId, run_created_ms
from engine.base.moments import DAY_MS
from engine.model.views import RunFilter, RunPage, RunView

_DAY: Final = re.compile(r"/day=(\d{4})-(\d{2})-(\d{2})/")
# The id of a batch is made like a run's: it begins with the time at which it was put together.
_BATCH: Final = re.compile(r"-([0-9a-f]{12})[0-9a-f]{20}\.parquet$")


def files_to_look_at(files: Sequence[str], chosen: RunFilter) -> tuple[str, ...]:
    """Those that may hold such runs, the ones that can hold the newest first."""
    if chosen.status is not None and not chosen.status.is_terminal:
        return ()  # what is in a file has ended
    from_ms = chosen.created_from_ms
    wanted = [file for file in files if from_ms is None or _newest_ms(file) >= from_ms]
    return tuple(sorted(wanted, key=lambda file: (_newest_ms(file), file), reverse=True))


def is_answered_by(hot: RunPage, chosen: RunFilter, files: Sequence[str]) -> bool:
    """Whether no file can add to the page of the hot tier."""
    if not files:
        return True
    is_full = hot.next_cursor is not None and len(hot.runs) >= chosen.limit
    return is_full and _made_ms(hot.runs[-1].run_id) > _newest_ms(files[0])


def read_page(
    read_views: Callable[[Sequence[str]], Iterable[RunView]],
    chosen: RunFilter,
    hot: RunPage,
    files: Sequence[str],
) -> RunPage:
    """The page, from the hot page and from the files in the order of `files_to_look_at`.
    `read_views` finds the newest that match in some of them, one more than the page has."""
    found = {view.run_id: view for view in hot.runs}
    needed = chosen.limit + 1  # one more, to know whether there is a next page
    first, count = 0, 1
    while first < len(files):
        for view in read_views(files[first : first + count]):
            found.setdefault(view.run_id, view)
        first, count = first + count, count * 2
        if first < len(files) and _is_settled(found, needed, _newest_ms(files[first])):
            break
    views = sorted(found.values(), key=lambda view: view.run_id, reverse=True)
    has_more = len(views) > chosen.limit or hot.next_cursor is not None
    page = tuple(views[: chosen.limit])
    return RunPage(page, page[-1].run_id if has_more and page else None)


def _is_settled(found: Iterable[str], needed: int, others_ms: int) -> bool:
    """Whether as many as are needed are newer than everything that began by then."""
    newer = [run_id for run_id in found if _made_ms(run_id) > others_ms]
    return len(newer) >= needed


def _made_ms(run_id: str) -> int:
    return run_created_ms(RunId(bytes.fromhex(run_id[:8] + run_id[9:13])))


def _newest_ms(file: str) -> int:
    """No run in the file was made later: it ended on the file's day, before the batch was put
    together, and the clock may have been set back a little while it ran."""
    named = _DAY.search(file)
    assert named is not None, f"{file} is not in the directory of a day"
    year, month, day = map(int, named.groups())
    since = datetime.date(year, month, day) - datetime.date(1970, 1, 1)
    ended_ms = (since.days + 1) * DAY_MS - 1
    batch = _BATCH.search(file)
    if batch is not None:
        ended_ms = min(ended_ms, int(batch[1], 16))
    return ended_ms + limits.clock_step_ms_max
