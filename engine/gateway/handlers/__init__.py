"""What each route does. Those that are asked thousands of times a second are functions over an
`Exchange` (`hot.py`, `intake.py`, `streams.py`, `probes.py`, `delivering.py`); the others are views
(`views.py`, `query_views.py`) behind the Quart application in `cold.py`."""
