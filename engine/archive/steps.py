"""The points that a run passes between its end and being compacted away, by name.

Each is reached after something durable has happened. Tests stop, or kill, the process there; the
product does nothing with them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class Step(enum.StrEnum):
    PLANNED = "planned"  # the batch is in the manifest
    BUILT = "built"  # its files are in the data directory
    UPLOADED_JOURNAL = "uploaded_journal"
    UPLOADED_STEPS = "uploaded_steps"
    UPLOADED_RUNS = "uploaded_runs"
    VERIFIED = "verified"  # the objects are there, with the right size and row count
    ACKNOWLEDGED = "acknowledged"  # and the manifest says so
    DELETED_SOME = "deleted_some"  # one write of hot copies is gone
    DELETED_HOT = "deleted_hot"  # all of a batch's
    COMPACTION_PLANNED = "compaction_planned"
    COMPACTION_BUILT = "compaction_built"
    COMPACTION_UPLOADED = "compaction_uploaded"
    COMPACTED = "compacted"  # readers are with the new batch
    RETIRED_DELETED = "retired_deleted"  # the replaced objects are gone
    RETIRED_FORGOTTEN = "retired_forgotten"  # and their rows


OnStep = Callable[[Step], None]


def go_on(_: Step) -> None:
    """What the product does at each of them."""
