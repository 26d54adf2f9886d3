# %% [markdown]
"""
# What the runs did, with nothing but DuckDB

Ended runs are Parquet files, in a folder or in a bucket; whoever may read those can ask them
everything, without a runtime and without any package of the engine:

    pip install duckdb
    python examples/notebook.py engine-data/archive/engine
    python examples/notebook.py s3://engine/engine

The store of the last line is found by AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
and AWS_REGION. Cells begin with `# %%`: VS Code, PyCharm and Jupytext show this as a notebook.
"""

# %% Where the files are
import os
import sys

import duckdb

ARCHIVE = next((word for word in sys.argv[1:] if not word.startswith("-")), "").rstrip("/")
ARCHIVE = ARCHIVE or os.environ.get("ARCHIVE", "engine-data/archive/engine")

con = duckdb.connect()

# %% A bucket needs an extension of DuckDB's, and keys
if ARCHIVE.startswith("s3://"):
    try:
        con.execute("LOAD httpfs")
    except duckdb.Error:
        con.execute("INSTALL httpfs")
        con.execute("LOAD httpfs")
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "https://s3.amazonaws.com")
    scheme, _, host = endpoint.partition("://")
    options = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "minioadmin"),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY", "minioadmin"),
        "REGION": os.environ.get("AWS_REGION", "us-east-1"),
        "ENDPOINT": host,
        "URL_STYLE": "vhost" if host.endswith("amazonaws.com") else "path",
    }
    said = ", ".join(f"{name} '{text}'" for name, text in options.items())
    con.execute(f"CREATE SECRET (TYPE s3, {said}, USE_SSL {scheme == 'https'})")


# %% Two views
#
# `tenant` and `day` are in the paths (tenant=acme/day=2026-01-31/runs-....parquet): what asks for
# few of them reads few files. Files of older versions have fewer columns; those are NULL. While the
# engine puts small files together a run can be in two of them for some minutes, hence the DISTINCT.
def files(data_set: str) -> str:
    pattern = f"{ARCHIVE}/{data_set}/tenant=*/day=*/*.parquet".replace("'", "''")
    return f"read_parquet('{pattern}', hive_partitioning = true, union_by_name = true)"


con.execute(f"CREATE VIEW runs AS SELECT DISTINCT ON (tenant, run_id) * FROM {files('runs')}")
con.execute(f"CREATE VIEW steps AS SELECT DISTINCT * FROM {files('steps')}")

# %% How the days went
print(
    con.sql("""
        SELECT day, component, count(*) AS runs,
               count(*) FILTER (status = 'FAILED') AS failed,
               round(quantile_cont(duration_ms, 0.5)) AS p50_ms,
               round(quantile_cont(duration_ms, 0.99)) AS p99_ms
        FROM runs GROUP BY ALL ORDER BY day, component
    """)
)

# %% What it cost, by project and model; a run may have used several models
print(
    con.sql("""
        SELECT project_id, used.model, sum(used.tokens_in)::BIGINT AS tokens_in,
               sum(used.tokens_out)::BIGINT AS tokens_out, round(sum(used.cost_usd), 4) AS cost_usd
        FROM (SELECT project_id, unnest(usage) AS used FROM runs)
        GROUP BY ALL ORDER BY cost_usd DESC
    """)
)

# %% What goes wrong: the same error with other numbers and names in it has the same signature
print(
    con.sql("""
        SELECT error_code, error_signature, count(*) AS runs, any_value(run_id) AS one_of_them
        FROM runs WHERE status = 'FAILED' GROUP BY ALL ORDER BY runs DESC LIMIT 20
    """)
)

# %% Which steps take long, and how often they had to be tried again
print(
    con.sql("""
        SELECT component, name, count(*) AS tries, count(*) FILTER (status = 'failed') AS failed,
               max(duration_ms) AS slowest_ms
        FROM steps WHERE kind = 'step' GROUP BY ALL ORDER BY slowest_ms DESC LIMIT 20
    """)
)

# %% The latest run, step by step
print(
    con.sql("""
        SELECT position, kind, name, status, attempt, duration_ms, output
        FROM steps
        WHERE run_id = (SELECT run_id FROM runs ORDER BY completed_ms DESC, run_id DESC LIMIT 1)
        ORDER BY position, attempt
    """)
)

# %% From here on it is yours: con.sql("FROM runs").df() is a pandas frame, .pl() one of polars
