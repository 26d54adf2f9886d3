"""Durable Engine: a self-hosted durable execution runtime in one process.

The package itself exports nothing; ARCHITECTURE.md says which folder owns what.
"""

__version__ = "0.1.0"
