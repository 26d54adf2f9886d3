"""What is in the archive: the data sets and their columns, as data.

A new field of a run is a new entry at the end of its data set: from the next flush on it is a
column, and older files answer NULL. An entry is never renamed, moved or given another type. Tenant
and day are in the path, not in the file. Knows nothing of where the values come from.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

TEXT: Final = pa.string()
COUNT: Final = pa.int64()
SMALL: Final = pa.int32()
MOMENT: Final = pa.int64()  # milliseconds since the epoch
REAL: Final = pa.float64()
DATA: Final = pa.binary()
TAGS: Final = pa.map_(TEXT, TEXT)
USAGE: Final = pa.list_(
    pa.struct(
        [
            ("model", TEXT),
            ("tokens_in", COUNT),
            ("tokens_out", COUNT),
            ("cost_usd", REAL),
            ("tool_calls", COUNT),
        ]
    )
)

# One row per run.
RUNS: Final = pa.schema(
    [
        pa.field("run_id", TEXT, nullable=False),
        ("project_id", TEXT),
        ("deployment_id", TEXT),
        ("component", TEXT),
        ("kind", TEXT),
        ("status", TEXT),
        ("attempt", SMALL),
        ("created_ms", MOMENT),
        ("started_ms", MOMENT),
        ("completed_ms", MOMENT),
        ("duration_ms", COUNT),
        ("steps_completed", COUNT),
        ("steps_failed", COUNT),
        ("records", COUNT),
        ("model", TEXT),
        ("tokens_in", COUNT),
        ("tokens_out", COUNT),
        ("cost_usd", REAL),
        ("tool_calls", COUNT),
        ("usage", USAGE),
        ("error_code", TEXT),
        ("error_message", TEXT),
        ("error_signature", TEXT),
        ("prompt_version", TEXT),
        ("trace_id", TEXT),
        ("correlation_id", TEXT),
        ("session_id", TEXT),
        ("user_id", TEXT),
        ("entity_key", TEXT),
        ("parent_run_id", TEXT),
        ("tags", TAGS),
        ("input", TEXT),
        ("input_bytes", COUNT),
        ("output", TEXT),
        ("output_bytes", COUNT),
        ("score", REAL),
    ]
)

# One row per step, tool call, wait, child, usage and attempt: what a trace shows.
STEPS: Final = pa.schema(
    [
        pa.field("run_id", TEXT, nullable=False),
        ("position", COUNT),
        ("kind", TEXT),
        ("name", TEXT),
        ("key", TEXT),
        ("status", TEXT),
        ("attempt", SMALL),
        ("started_ms", MOMENT),
        ("finished_ms", MOMENT),
        ("duration_ms", COUNT),
        ("input", TEXT),
        ("output", TEXT),
        ("error_code", TEXT),
        ("error_message", TEXT),
        ("error_signature", TEXT),
        ("model", TEXT),
        ("tokens_in", COUNT),
        ("tokens_out", COUNT),
        ("cost_usd", REAL),
        ("tool_calls", COUNT),
        ("child_run_id", TEXT),
        ("component", TEXT),
        ("project_id", TEXT),
        ("completed_ms", MOMENT),
    ]
)

# One row per record, byte for byte: the truth, from which the other two could be made again.
JOURNAL: Final = pa.schema(
    [
        pa.field("run_id", TEXT, nullable=False),
        ("offset", COUNT),
        ("kind", TEXT),
        ("flags", SMALL),
        ("timestamp_us", pa.int64()),
        ("payload", DATA),
    ]
)

DATA_SETS: Final = {"runs": RUNS, "steps": STEPS, "journal": JOURNAL}
# In the order in which a batch's objects are uploaded: a batch whose runs are there is whole.
UPLOAD_ORDER: Final = ("journal", "steps", "runs")
