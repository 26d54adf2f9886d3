"""Every bound of the engine, in one place, with the relations between them asserted at import.

A queue, cache, buffer, retry or size without a bound here is a defect. Values that an operator may
choose are settings (`config/settings.py`); their permitted range is still here.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Names and keys.
name_length_max: Final = 64
key_length_max: Final = 512

# Records. The offset's low 32 bits stand in each record's header, so a run may not outgrow them.
record_payload_bytes_max: Final = 4 * MIB
records_per_run_max: Final = 2**32 - 1
records_per_transition_max: Final = 10_000
rows_per_transition_max: Final = 10_000
row_bytes_max: Final = 4 * MIB

# Reading.
read_page_records_max: Final = 10_000
read_page_bytes_max: Final = 16 * MIB

# Group commit: what may wait for the disk, and what one fsync may carry. A commit takes at most
# one batch's records; the rest goes with the next, which fills while the first is under way.
batch_records_max: Final = 512
batch_bytes_max: Final = 8 * MIB
batch_waiters_max: Final = 256
pending_records_max: Final = 100_000
pending_bytes_max: Final = 256 * MIB

# Committing on the event loop's own thread is quicker than a hop to another as long as the disk
# answers faster than two thread switches; past this the loop must not wait for it.
inline_commit_us_max: Final = 1_200
inline_pass_us_max: Final = 1_500

# Batches handed to a tenant's commit thread and not yet durable: one being written, one ready.
batches_in_flight_max: Final = 2

# Threads that commit for tenants whose disk is slow, or when many tenants commit at once.
commit_threads_max: Final = 8

# Durability mode `interval`.
flush_interval_ms_min: Final = 1
flush_interval_ms_max: Final = 60_000

# Stores.
tenants_open_min: Final = 1
tenants_open_max: Final = 100_000
block_cache_bytes_min: Final = 1 * MIB
write_buffer_total_bytes_min: Final = 1 * MIB
tenant_idle_close_s_min: Final = 1

# After a full disk: how much room must be back, and how often to look.
resume_free_bytes_min: Final = 16 * MIB
resume_interval_ms: Final = 250

# WAL scan: a record longer than this cannot have been written by this engine.
wal_report_regions_max: Final = 100

assert batch_bytes_max >= record_payload_bytes_max, "one record must fit a batch"
assert pending_bytes_max >= batch_bytes_max
assert pending_records_max >= records_per_transition_max >= batch_records_max
assert inline_pass_us_max >= inline_commit_us_max
assert read_page_bytes_max >= record_payload_bytes_max, "a page must be able to carry a record"
assert tenants_open_min <= tenants_open_max
assert flush_interval_ms_min <= flush_interval_ms_max
