"""Benchmarks. `python -m bench NAME --json` prints one JSON object with named figures.

Each figure that is a comparison is measured in the same run, alternately, on the same disk.
"""
