"""Builds a runtime from its settings and takes it down again. The commands know no other way."""
