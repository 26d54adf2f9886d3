"""The HTTP door: REST and server-sent events over the runtime's Handle.

Start reading at `api/routes.py` (everything that can be asked), then `door/door.py` (how a request
is answered). Two ways lead there, both in `transport/`. A plain HTTP/1.1 request is read and
answered by `plain.py`, which is what a busy client uses; whatever is not plain (HTTP/2, chunked
uploads, odd but legal requests) Hypercorn serves. What a route does is in `handlers/`: those that
are asked thousands of times a second are functions over an `Exchange`, the rest is a Quart
application. `serve.py` puts it together.

Knows the Handle of `ports.py` and no journal, no worker and no rule of a run.
"""
