"""The running engine: drives the pure rules of `core` over the journal, for many tenants.

Knows no HTTP and no gRPC: the doors call `Handle`. One `TenantRuntime` is the single writer of its
tenant's runs; everything it does to them is synchronous on the event loop's thread, so there is
nothing to lock. Start reading at `handle.py` (what the doors may ask), then `tenant.py`.
"""
