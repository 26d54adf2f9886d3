"""Who may come in, and how a request becomes an answer, whatever way it came: `door.py`. Beside it
what it counts: rates and waiting requests (`admission.py`), bodies on their way (`bodies.py`), and
the measurements. Knows no socket and no route's work."""
