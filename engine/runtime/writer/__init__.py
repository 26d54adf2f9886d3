"""The single writer of one tenant's runs, and the parts that it is made of.

Begin with `tenant.py`; a decision's way is `writing.py`, `appending.py`, then `bookkeeping.py` for
what follows in memory and `performing.py` for what the outside notices. The parts know each other
through `tenancy.py`.
"""
