"""How requests come and answers go: sockets, TLS, plain HTTP/1.1 (`plain.py`, `head.py`), and
Hypercorn for everything that is not plain (`handed_over.py`). `connections.py` has all of them.
What a request means is not known here; docs/plain-http.md is about this folder."""
