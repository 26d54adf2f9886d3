"""The rules of a run, pure: commands and states in, records and effects out.

No Trio, no clock, no disk, no randomness: the time and the seed are arguments. Start reading at
`transitions.py` (the table), then `state.py`, `apply.py` (what a record does to the state) and
`decide.py` (what a command leads to).
"""
