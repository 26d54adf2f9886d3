"""The rules of the house as tests. A failing one names the file, the line and what to do instead.

Nothing here knows what the engine does; it reads the sources only.
"""
