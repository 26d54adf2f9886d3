"""Ids, clock, limits and settings: the ground that the rest stands on."""
