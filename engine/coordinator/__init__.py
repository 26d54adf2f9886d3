"""Where workers dial in: a gRPC server whose handlers translate frames to the runtime and back.

Start reading at `ports.py` (what the coordinator asks of the runtime), then `stream.py` (one
worker) and `server.py` (all of them). No rule of runs is here: which worker gets a run, what a
report means and when it counts is the runtime's. The only folder but the SDK's transport that
imports grpclib and trio-asyncio (docs/decisions/0005).
"""
