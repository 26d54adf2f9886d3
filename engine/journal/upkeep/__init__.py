"""An operator's work on a data directory: look at it, copy it, save what can be saved of it.

The running engine needs none of this.
"""
