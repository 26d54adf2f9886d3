"""Plain Python twins of the compiled code: each is the specification of what it stands beside.

A suite here runs on every implementation; where two disagree, the twin is right.
"""
