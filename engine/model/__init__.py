"""The vocabulary: records, runs, commands, effects and the request context, as plain values.

Knows `base` only: no bytes of the wire, no disk, no clock.
"""
