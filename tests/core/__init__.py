"""Tests of the pure rules: no clock, no disk, no event loop."""
