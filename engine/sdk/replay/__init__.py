"""How a workflow is brought back to where it was: its journal goes in, reports come out.

Begin with `machine.py`. Everything here is pure but the loop on which the code stands still; what
the user's functions are is not known here.
"""
