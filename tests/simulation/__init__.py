"""Core and runtime in deterministic simulation: one process, virtual time, a disk and a network
that fail as the seed says, and a model that says what must come out. See README.md.
"""
