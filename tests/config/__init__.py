"""The settings of a runtime, from wherever they come."""
