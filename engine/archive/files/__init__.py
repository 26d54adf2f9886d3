"""Parquet files, and what is read of them again: a run, the whole for `verify`, the manifest anew.

Knows no plan and no time.
"""
