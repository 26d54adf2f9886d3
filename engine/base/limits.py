"""Every bound of the engine, in one place, with the relations between them asserted at import.

A queue, cache, buffer, retry or size without a bound here is a defect. Values that an operator may
choose are settings (`config/settings.py`); their permitted range is still here.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# A port that an outgoing connection has taken is waited for, and tried this often.
bind_patience_ms: Final = 3_000
bind_retry_ms: Final = 50

# Names and keys.
name_length_max: Final = 64
key_length_max: Final = 512

# Records. The offset's low 32 bits stand in each record's header, so a run may not outgrow them.
record_payload_bytes_max: Final = 4 * MIB
records_per_run_max: Final = 2**32 - 1
records_per_transition_max: Final = 10_000
rows_per_transition_max: Final = 10_000
row_bytes_max: Final = 4 * MIB
# A state row of at least this size is made once for a batch, not with each of its transitions.
late_row_bytes_min: Final = 4 * KIB

# No message that is allowed may hold the event loop for more than this; the bounds on the sizes of
# messages follow from it, as measured by tests/runtime/test_passes.py. What is longer is cut into
# pieces, between which everybody else has a turn.
loop_pass_us_max: Final = 20_000
loop_slice_us: Final = 5_000
# The longest pass is told of the last one to two of these.
loop_passes_window_us: Final = 60_000_000
# A report is one transition. An entry costs 10 to 50 us, a child, which is a run that starts and
# may go to a worker at once, 80 to 250.
report_entries_max: Final = 256
report_children_max: Final = 48
# One entry alone may be as large as a record. What waits ask people is taken apart option by
# option, each at 3 us.
report_bytes_max: Final = 2 * MIB
report_waits_bytes_max: Final = 8 * KIB
# What the engine owes of its own (starts, grants, cancelled children) at 50 to 100 us each, and the
# starts of one call.
settled_per_look_max: Final = 64
grants_per_look_max: Final = 32
starts_per_look_max: Final = 64

# Reading.
read_page_records_max: Final = 4_000
read_page_bytes_max: Final = record_payload_bytes_max
# A summary is made of a whole journal, in parts of so much.
fold_records_max: Final = 1_000
fold_bytes_max: Final = 1 * MIB

# Group commit: what may wait for the disk, and what one fsync may carry. A commit takes at most
# one batch's records; the rest goes with the next, which fills while the first is under way.
batch_records_max: Final = 1_024
batch_bytes_max: Final = 8 * MIB
# As many as records: smaller batches, so that waking tasks overlaps with the next write, lost more
# in fsyncs than they won.
batch_waiters_max: Final = 1_024
pending_records_max: Final = 150_000
pending_bytes_max: Final = 256 * MIB
# What the doors leave free of it, for what the engine itself has to write because of what it has
# taken: grants, what a parent is told, the children of a cancelled run.
pending_records_reserve: Final = 50_000
pending_bytes_reserve: Final = 64 * MIB

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
waits_resolved_per_look_max: Final = 250
# Of the open questions, or of the components, that an error names.
names_shown_max: Final = 10
# A transition copies what it changes of a run's state up to so many entries; of more, it notes what
# changes.
copied_entries_max: Final = 128
# What a run's state row may hold of each; all of it together fits the row.
signals_buffered_bytes_max: Final = 1 * MIB
waits_open_bytes_max: Final = 512 * KIB
wait_id_length_max: Final = 512
state_names_max: Final = 1_000
# An output goes into the parent's journal too, beside the other fields of those records.
output_bytes_max: Final = record_payload_bytes_max - 64 * KIB
error_bytes_max: Final = 256 * KIB
# A run that was handed out this often without getting anywhere takes its workers down with it.
fruitless_starts_max: Final = 5
# Past this it is suspected to, and goes only to a worker that has nothing else meanwhile, so that
# nobody else goes down with it and it alone is found guilty.
fruitless_starts_shared_max: Final = 2

# What a worker says. Positions are numbers that JSON can carry, times those that a calendar can.
position_max: Final = 2**53
time_ms_max: Final = 253_402_300_799_999  # the end of the year 9999
tokens_max: Final = 2**53
tool_calls_max: Final = 2**32 - 1
cost_usd_max: Final = 1_000_000_000
operation_name_length_max: Final = 4 * KIB
service_name_length_max: Final = 256
version_length_max: Final = 256
reason_length_max: Final = 4 * KIB
wait_options_max: Final = 1_000
# What an option counts among the bytes of the open waits beside its text.
wait_option_bytes: Final = 16
# Live events: for who listens at this moment, so small ones.
emit_name_length_max: Final = 128
emit_bytes_max: Final = 256 * KIB

# Retry policies. Within these no power of a factor overflows and no time is past what can be shown:
# the delays alone, one after the other, would take 34 years.
retry_factor_max: Final = 1_000
retry_delay_ms_max: Final = 2**40
retry_attempts_max: Final = 2**31
retry_codes_max: Final = 100
retry_code_length_max: Final = 256

# State that outlives its run. A read puts the value into the reader's journal, so a value is small.
state_value_bytes_max: Final = 256 * KIB
state_name_bytes_max: Final = 512
state_scope_key_bytes_max: Final = 1_024

# How deep the arrays and objects of a value may be: less than any reader of it can follow.
json_depth_max: Final = 512
# As many digits as Python makes a number of.
json_number_length_max: Final = 4_300

list_runs_max: Final = 1_000
# Rows a listing looks at before it lets others go on.
list_rows_per_turn: Final = 200
idempotency_key_bytes_max: Final = 256
input_bytes_max: Final = 2 * MIB

# Dispatching. A dispatch carries a run's journal; a short one is kept in memory for it.
dispatch_entries_cached_max: Final = 128
# When more runs of a tenant wait for a worker, only their ids are kept in memory.
queued_in_memory_max: Final = 1_000
# Names that come close to one that is not known. Likeness costs up to 0.1 µs for each pair of their
# characters, so among more names than these, or longer ones, only the beginning counts; and of the
# starts of one call that are refused, so many are told.
nearest_names_max: Final = 3
nearest_names_fuzzy_max: Final = 200
nearest_names_pairs_max: Final = 64 * KIB
nearest_names_per_call_max: Final = 1
lease_ms: Final = 15_000

# Live events (output, progress, logs) that wait for one listener, and for all of a tenant: their
# number and their bytes. The oldest are dropped for more.
live_events_buffered_max: Final = 1_000
live_events_bytes_max: Final = 1 * MIB
live_events_tenant_bytes_max: Final = 64 * MIB
dispatch_page_bytes_max: Final = 1 * MIB
dispatch_page_records_max: Final = 1_000

# Of a run's journal in the hands of one reader of its events, who may be slow.
event_page_records_max: Final = 500
event_page_bytes_max: Final = 256 * KIB

# Timers: how many are taken off the heap in one go, and how long the service sleeps at most, which
# is how late a jump of the wall clock can be noticed.
timers_per_look_max: Final = 1_000
timer_look_ms_max: Final = 1_000

# What the engine owes and could not do, since the journal was full, is tried again after this.
settle_again_ms: Final = 20
# How often a tenant that could not be opened is tried again, at most.
tenant_retry_ms: Final = 5_000
# After how long one that nobody asks for is tried again.
tenant_reopen_ms: Final = 60_000

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
stream_message_frames_max: Final = 16_384
stream_frames_per_turn_max: Final = 64
# Of runs that a worker no longer holds: whose last report is known when it comes a second time.
last_reports_kept_max: Final = 1_000
register_bytes_max: Final = 1 * MIB
stream_outgoing_bytes_max: Final = 64 * MIB
stream_outgoing_bytes_pause: Final = 4 * MIB
stream_outgoing_bytes_resume: Final = 1 * MIB
stream_connections_max: Final = 20_000
# A machine whose workers all come back at once is done registering them within a second or two.
stream_strangers_per_peer_max: Final = 1_000
# A worker opens one stream on a connection, and resets none but that.
stream_per_connection_at_once_max: Final = 4
stream_per_connection_max: Final = 20
stream_resets_max: Final = 3
# PING, SETTINGS, PRIORITY, empty DATA and the like; a worker sends a PING in some seconds.
stream_control_frames_at_once_max: Final = 200
stream_control_frames_per_s_max: Final = 20
# Of all the workers of a tenant together. A frame that is not written, a heartbeat or an event,
# costs the event loop some 6 us, so that a tenant has a third of it; of reports it is several times
# what the journal takes. A registration counts as several.
stream_tenant_frames_at_once_max: Final = 50_000
stream_tenant_frames_per_s_max: Final = 50_000
stream_register_frames: Final = 40
stream_component_frames: Final = 3
# Who reads answers with a WINDOW_UPDATE or two for each message, or for so many bytes of one.
stream_window_update_bytes: Final = 1_024
stream_refusal_characters_max: Final = 4_000
# How long a report waits for room in the journal before its worker is told that there is none.
stream_busy_retries_max: Final = 1_500
stream_busy_retry_ms: Final = 20
# How often the log says that connections were refused or hung up.
stream_refusals_told_ms: Final = 1_000
# What the log has of failures at the worker door that nobody foresaw: each place whole, once in so
# long, and otherwise their number.
defect_places_max: Final = 200
defect_told_again_ms: Final = 24 * 3_600_000
defects_told_ms: Final = 60_000
# A worker on whose frames the engine failed is let in again after this, and each time after twice
# as long; as any other when nothing has failed for so long.
offender_wait_ms_initial: Final = 1_000
offender_wait_ms_max: Final = 60_000
offender_forgiven_ms: Final = 600_000
offenders_kept_max: Final = 10_000

# The archive. A batch is one object of each data set: as many runs, and read in portions of so many
# bytes, so that memory is bounded by a portion and not by a batch.
archive_interval_ms_min: Final = 10
archive_interval_ms_max: Final = 3_600_000
# The acknowledgement of a batch deletes a row for each of its runs, on the event loop.
archive_batch_runs_max: Final = 2_048
archive_portion_bytes_max: Final = 32 * MIB
archive_portion_runs_max: Final = 2_048
# Runs that are made into rows before other threads get their turn.
archive_slice_runs_max: Final = 64
archive_slice_bytes_max: Final = 256 * KIB
archive_text_bytes_max: Final = 64 * KIB
# A batch of more runs than this is made rows of in a program beside the engine; fewer take less
# than its beginning does. It is a little behind, and ends when there was no batch for so long.
archive_inside_runs_max: Final = 256
archive_builder_niceness: Final = 5
archive_builder_idle_ms: Final = 60_000
# Who gives it something, or waits for what it says, waits so long: a slice takes it milliseconds.
archive_builder_silence_ms: Final = 600_000
archive_outliers_max: Final = 256
# When more ended runs wait than this, the archive does not rest for the sake of others.
archive_hurried_runs: Final = 20_000
# Finished runs that a query reads from the hot tier while the store is away.
archive_hot_runs_max: Final = 200_000
archive_tenants_at_once_max: Final = 4
archive_requests_at_once_max: Final = 8
archive_lookups_per_tenant_max: Final = 4
archive_backoff_ms_min: Final = 1_000
archive_backoff_ms_max: Final = 60_000
archive_put_retries_max: Final = 3
archive_part_bytes: Final = 16 * MIB
archive_footers_cached_max: Final = 256
# Compaction: objects smaller than this, as many as make one of about this size. Of a day that
# still grows, so many of one class; and the ids of what is still hot stay in one row.
archive_compacted_bytes_aim: Final = 256 * MIB
archive_compacted_batches_max: Final = 10_000
archive_compacted_fan_in: Final = 32
archive_compacted_hot_bytes_max: Final = 1 * MIB
# Retention: so many runs are deleted in one write.
archive_delete_runs_max: Final = 1_000
# And so many at least, before the journal is compacted for it.
archive_hint_runs_min: Final = 10_000
archive_retention_ms_max: Final = 30_000
archive_compaction_ms: Final = 300_000
archive_expiries_per_pass_max: Final = 100_000

assert archive_slice_runs_max <= archive_portion_runs_max <= archive_batch_runs_max
assert archive_portion_bytes_max >= 2 * record_payload_bytes_max
assert archive_batch_runs_max * 24 <= archive_compacted_hot_bytes_max
assert (
    archive_compacted_hot_bytes_max + archive_compacted_batches_max * 48 + 64 * KIB <= row_bytes_max
), "the ids of a batch's hot runs and of the batches that it replaces fit its row"
# Queries over the archive. A statement's tree is as deep as its parser and ours can follow.
query_instances_max: Final = 1_024
query_instance_bytes_min: Final = 32 * MIB
query_memory_bytes_min: Final = query_instance_bytes_min
query_threads_max: Final = 256
query_waiting_max: Final = 100_000
query_time_limit_ms_max: Final = 3_600_000
query_rows_max: Final = 10_000_000
query_answer_bytes_max: Final = 1_024 * MIB
query_text_growth_max: Final = 64
query_sql_characters_max: Final = 64 * KIB
query_depth_max: Final = 128
query_columns_max: Final = 1_000  # what the driver does with them grows with their square
query_message_characters_max: Final = 2_000
query_rows_per_fetch: Final = 1_000
# A file that cannot be read is left out for this long before it is tried again; a query that
# meets more of them than this has another problem than its files.
query_unreadable_ms: Final = 60_000
query_unreadable_files_max: Final = 100
query_unreadable_kept_max: Final = 10_000
# Between the engine and a program beside it. A part is read in one go on the event loop.
process_frame_bytes_max: Final = 64 * MIB
process_part_bytes_max: Final = 256 * KIB
# A query that is stopped and does not hear it is ended with its process after this, and one that
# does has given the process back, with everything that it remembers of the files.
query_stop_ms: Final = 300
# The least that a process of queries takes beside its database: the interpreter and its libraries,
# rows on their way out, and what the database does not count.
query_process_bytes: Final = 384 * MIB
query_process_address_bytes: Final = 4_096 * MIB  # mapped, not taken
query_process_files_max: Final = 4_096
query_process_cpu_s_max: Final = 24 * 3_600  # of a whole life
query_process_start_ms: Final = 30_000
query_process_idle_ms: Final = 120_000  # nobody has asked it anything for so long
query_retry_after_s_max: Final = 30
query_watch_ms: Final = 50
# With so many at once as `running_max` has by default they get a fifth of what is fought for.
query_niceness: Final = 12
# A page of a list is somebody who waits, and takes a hundredth of a second; a little behind the
# engine is enough.
query_lists_niceness: Final = 1
# A clock may have been set back by this much between a run's start and its end.
clock_step_ms_max: Final = 600_000

# Archived runs kept in memory after somebody asked for one, and how large their journals may be.
archived_runs_kept_max: Final = 64
archived_run_bytes_kept_max: Final = 1 * MIB
# What a record takes beside its payload.
archived_record_bytes: Final = 200

assert batch_bytes_max >= record_payload_bytes_max, "one record must fit a batch"
assert pending_bytes_max >= batch_bytes_max
assert pending_records_max >= records_per_transition_max >= batch_records_max
assert pending_records_max - pending_records_reserve >= records_per_transition_max
assert pending_records_reserve >= 3 * records_per_transition_max, (
    "a report of children leads to a start and a grant for each beside its own records"
)
assert pending_records_reserve >= 2 * children_open_max, "a cancelled run's children are cancelled"
assert pending_bytes_max - pending_bytes_reserve >= batch_bytes_max
assert pending_bytes_reserve >= 4 * stream_message_bytes_max
assert max(output_bytes_max, error_bytes_max, input_bytes_max) < record_payload_bytes_max
assert 0 < fruitless_starts_shared_max < fruitless_starts_max - 1
assert report_children_max <= report_entries_max < records_per_transition_max
assert loop_slice_us < loop_pass_us_max
assert waits_resolved_per_look_max < records_per_transition_max
assert (
    signals_buffered_bytes_max
    + waits_open_bytes_max
    + state_names_max * state_name_bytes_max
    + error_bytes_max
    + children_open_max * 40
    < row_bytes_max
), "a run's state must fit its row"
assert inline_pass_us_max >= inline_commit_us_max
assert stream_message_bytes_max > record_payload_bytes_max, "a frame must be able to carry a record"
assert stream_message_bytes_aim < stream_message_bytes_max < stream_outgoing_bytes_max
assert stream_outgoing_bytes_resume < stream_outgoing_bytes_pause < stream_outgoing_bytes_max, (
    "a worker is paused before it is cut off, and resumed below where it was paused"
)
assert state_value_bytes_max < record_payload_bytes_max, "a value must fit a record and a row"
assert schema_bytes_max < register_bytes_max <= stream_message_bytes_max
assert stream_frames_per_turn_max < stream_message_frames_max
assert read_page_bytes_max >= record_payload_bytes_max, "a page must be able to carry a record"
assert tenants_open_min <= tenants_open_max
assert flush_interval_ms_min <= flush_interval_ms_max
