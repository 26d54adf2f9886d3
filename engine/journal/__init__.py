"""Truth on disk: one RocksDB per tenant, written in group commits.

Knows records and rows, not what they mean (that is `core`) and not who asks (that is `runtime`).
Start reading at `tenants.py` (the journal of a whole data directory), then `tenant.py` (one
tenant), `committer.py` (how a commit happens) and `store.py` (the only door to RocksDB).
"""
