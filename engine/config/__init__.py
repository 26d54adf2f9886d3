"""Settings: what an operator may choose, where it comes from, and the check that it is usable."""
