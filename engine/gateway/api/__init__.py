"""What can be asked and what is answered, as data and without a socket: the table of routes, the
types of bodies and answers, errors as problem documents, and the OpenAPI document made of them.

Start at `routes.py`. What reads a request's parts into typed values (`reading.py`) and one request
with its answer (`exchange.py`) are here too, since every handler needs them. Imports nothing else
of the gateway but its settings.
"""
