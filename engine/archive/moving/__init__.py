"""The services that move runs and files: out of the hot tier, together, and away.

Each says when it has something to do. Knows no SQL.
"""
