"""The client: starts runs and asks about them, over HTTP.

Begin with `client.py`, which blocks; `async_client.py` has the same methods for asyncio and Trio,
and `requests.py` what both send and read.
"""
