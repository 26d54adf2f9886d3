"""Every bound of the worker and the client, with the relations between them.

They are apart from `base/limits.py` because they bound the user's process, not the runtime's; what
both sides must agree on is there.
"""

from __future__ import annotations

from typing import Final

from engine.base.limits import (
    KIB,
    MIB,
    record_payload_bytes_max,
    stream_message_bytes_max,
)
from engine.base.limits import report_bytes_max as report_taken_bytes_max

# One report is one transition of the run: how much of what is ready goes into it. How many entries
# the engine takes, and how many children among them, is its to say.
report_bytes_max: Final = 1 * MIB

# A user's value must fit a record beside the other fields of the record.
value_bytes_max: Final = record_payload_bytes_max - 64 * KIB
message_characters_max: Final = 4_000
traceback_characters_max: Final = 16_000
step_name_length_max: Final = 256

# The operations of one branch of a workflow: the lower bits of a position count them.
branch_operations_max: Final = 2**20 - 2
# How much of a step's input is shown where the journal and the code disagree about it.
input_characters_shown: Final = 200

# How long a run with nothing to do stays with the worker before it parks, where what it waits for
# is likely to come soon: a child run, or a timer that is due within this time. A thousand children
# take longer to come in than one, and parking is dearer with them.
park_linger_ms: Final = 200
park_linger_per_child_ms: Final = 1
park_linger_ms_max: Final = 10_000

# What is packed into one message of the stream, and how much may wait to be sent before the worker
# stops reading.
message_bytes_aim: Final = 256 * KIB
outgoing_bytes_pause: Final = 8 * MIB

# A worker.
capacity_default: Final = 1_000
runs_over_capacity_max: Final = 100
threads_default: Final = 32
register_timeout_s: Final = 10.0
drain_timeout_s_default: Final = 30.0
keepalive_s: Final = 10.0
keepalive_timeout_s: Final = 10.0
reconnect_ms_initial: Final = 100
reconnect_ms_max: Final = 10_000

# A client.
request_timeout_s: Final = 30.0
event_line_bytes_max: Final = 8 * MIB
event_reconnects_max: Final = 8
event_silence_s: Final = 60.0  # the engine sends a heartbeat more often than that
result_wait_s: Final = 20.0  # in one request; a longer wait is made of several
journal_page_records: Final = 1_000
query_timeout_s: Final = 300.0  # longer than the engine lets a query run
archive_timeout_s: Final = 3_600.0  # a flush after an outage, or looking through all objects

assert report_bytes_max <= report_taken_bytes_max, "what the engine takes of several entries"
assert report_bytes_max + record_payload_bytes_max < stream_message_bytes_max
assert value_bytes_max < record_payload_bytes_max
assert park_linger_ms <= park_linger_ms_max
assert reconnect_ms_initial <= reconnect_ms_max
