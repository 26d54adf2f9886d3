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
batch_records_max: Final = 1_024
batch_bytes_max: Final = 8 * MIB
# As many as records: smaller batches, so that waking tasks overlaps with the next write, lost more
# in fsyncs than they won.
batch_waiters_max: Final = 1_024
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

# Runs.
signal_ids_kept_max: Final = 1_000
signals_buffered_max: Final = 10_000
waits_open_max: Final = 10_000
children_open_max: Final = 20_000
# A run that was handed out this often without getting anywhere takes its workers down with it.
fruitless_starts_max: Final = 5

list_runs_max: Final = 1_000
idempotency_key_bytes_max: Final = 256
input_bytes_max: Final = 2 * MIB

# Dispatching. A dispatch carries a run's journal; a short one is kept in memory for it.
dispatch_entries_cached_max: Final = 128
lease_ms: Final = 15_000

# Live events (output, progress, logs) that wait for one listener; more than that are dropped.
live_events_buffered_max: Final = 1_000
dispatch_page_bytes_max: Final = 1 * MIB
dispatch_page_records_max: Final = 1_000

event_page_records_max: Final = 500

# Timers: how many are looked at in one go, and how long the service sleeps at most, which is how
# late a jump of the wall clock can be noticed.
timers_per_look_max: Final = 1_000
timer_look_ms_max: Final = 1_000

# Workers. A tenant's pools remember what was registered after the last worker left.
worker_capacity_max: Final = 10_000
workers_per_tenant_max: Final = 10_000
components_per_worker_max: Final = 1_000
components_known_max: Final = 10_000
deployments_known_max: Final = 1_000
component_name_length_max: Final = 128
schema_bytes_max: Final = 256 * KIB

# The worker stream. A message carries every frame that is ready, up to the size it aims at; a
# single frame may be larger, and no message, in either direction, is larger than the maximum.
# A worker that does not read gets no new runs past `pause` bytes, and is cut off at the maximum.
stream_message_bytes_max: Final = 8 * MIB
stream_message_bytes_aim: Final = 256 * KIB
stream_message_frames_max: Final = 65_536
stream_frames_per_turn_max: Final = 64
register_bytes_max: Final = 1 * MIB
stream_outgoing_bytes_max: Final = 64 * MIB
stream_outgoing_bytes_pause: Final = 4 * MIB
stream_outgoing_bytes_resume: Final = 1 * MIB
stream_connections_max: Final = 20_000
stream_refusal_characters_max: Final = 4_000
# How long a report waits for room in the journal before its worker is told that there is none.
stream_busy_retries_max: Final = 1_500
stream_busy_retry_ms: Final = 20

assert batch_bytes_max >= record_payload_bytes_max, "one record must fit a batch"
assert pending_bytes_max >= batch_bytes_max
assert pending_records_max >= records_per_transition_max >= batch_records_max
assert inline_pass_us_max >= inline_commit_us_max
assert stream_message_bytes_max > record_payload_bytes_max, "a frame must be able to carry a record"
assert stream_message_bytes_aim < stream_message_bytes_max < stream_outgoing_bytes_max
assert stream_outgoing_bytes_resume < stream_outgoing_bytes_pause < stream_outgoing_bytes_max, (
    "a worker is paused before it is cut off, and resumed below where it was paused"
)
assert schema_bytes_max < register_bytes_max <= stream_message_bytes_max
assert stream_frames_per_turn_max < stream_message_frames_max
assert read_page_bytes_max >= record_payload_bytes_max, "a page must be able to carry a record"
assert tenants_open_min <= tenants_open_max
assert flush_interval_ms_min <= flush_interval_ms_max
