"""A run's records as rows: which columns there are, what stands in them, and how records are read.

Knows no file and no store.
"""
