"""The archive: ended runs as Parquet in a directory or a bucket, and how they get there and back.

A follower of the journal: it reads what is durable and deletes from the hot tier only what it has
verified in the store. Alone here are pyarrow and minio. Knows no SQL, no HTTP and no rule of a run.

`moving/` has the services, `rows/` what they make of records, `files/` what that is in Parquet and
how it is read again, `store/` where objects lie. Beside these folders is what all share: the
manifest (`batches.py`), one tenant's archive, and the process's.
"""
