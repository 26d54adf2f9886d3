"""The settings of the query tier: how many databases are kept, and what one query may take.

Knows no DuckDB: `engine/query/child/database.py` turns these into its options.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from engine.base import limits
from engine.base.limits import MIB


class QuerySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With the defaults the tier stays below 2 GiB, however many tenants ask."""

    # Databases kept open, one per tenant; the one that was used longest ago makes room.
    instances_max: Annotated[int, msgspec.Meta(ge=1, le=limits.query_instances_max)] = 16
    # Of all of them together; each gets an equal part.
    memory_bytes: Annotated[int, msgspec.Meta(ge=limits.query_memory_bytes_min)] = 2_048 * MIB
    # Of each database; half of the machine, since the runtime and its workers need the other half.
    threads: Annotated[int, msgspec.Meta(ge=1, le=limits.query_threads_max)] = msgspec.field(
        default_factory=lambda: max(1, len(os.sched_getaffinity(0)) // 2)
    )
    # More than the processors, so that short ones come past the long; not many more, since each
    # takes its turns from the others.
    running_max: Annotated[int, msgspec.Meta(ge=1, le=limits.query_instances_max)] = msgspec.field(
        default_factory=lambda: min(8, max(4, 2 * len(os.sched_getaffinity(0))))
    )
    running_per_tenant_max: Annotated[int, msgspec.Meta(ge=1, le=limits.query_instances_max)] = 2
    # Lists have processes of their own, each with the databases of many tenants.
    lists_running_max: Annotated[int, msgspec.Meta(ge=1, le=limits.query_instances_max)] = 3
    waiting_max: Annotated[int, msgspec.Meta(ge=0, le=limits.query_waiting_max)] = 256
    time_limit_ms: Annotated[int, msgspec.Meta(ge=1, le=limits.query_time_limit_ms_max)] = 30_000
    rows_max: Annotated[int, msgspec.Meta(ge=1, le=limits.query_rows_max)] = 10_000
    answer_bytes_max: Annotated[int, msgspec.Meta(ge=1, le=limits.query_answer_bytes_max)] = (
        64 * MIB
    )
    # Where sorting and joining go that do not fit the memory; "": the system's place for such.
    temporary_directory: str = ""
    temporary_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1_024 * MIB  # per database
    # One request to the object store; a query that is cancelled waits for at most one.
    store_timeout_s: Annotated[int, msgspec.Meta(ge=1, le=600)] = 5
    # With the wait above well below the time limit, so that who asks hears what is the matter.
    store_retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1

    def __post_init__(self) -> None:
        if self.running_max > self.instances_max:
            raise ValueError(
                f"`running_max` is {self.running_max}, but only `instances_max` "
                f"{self.instances_max} tenants have a database to run in: raise the second or "
                "lower the first"
            )
        if self.memory_bytes // self.instances_max < limits.query_instance_bytes_min:
            raise ValueError(
                f"`memory_bytes` {self.memory_bytes} in {self.instances_max} parts leaves less "
                f"than {limits.query_instance_bytes_min} for one tenant: raise it, or lower "
                "`instances_max`"
            )

    @property
    def instance_bytes(self) -> int:
        return self.memory_bytes // self.instances_max
