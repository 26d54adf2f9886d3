"""The journal through its own doors: segments, tenants, the system store, group commit."""
