"""The worker process: its stream to the engine, its session, and the runs that it holds.

Begin with `worker.py` for what is in a worker, with `session.py` for what its frames lead to.
"""
