"""Ids, clock, errors and limits: what every other layer speaks of; imports none of them."""
