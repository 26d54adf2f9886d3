"""What can be seen of runs, hot or archived: one run, lists, events, and why one stands still.

Nothing here changes a run.
"""
