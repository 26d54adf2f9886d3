"""Scenarios to read aloud: one file for each rule, played against the real engine and journal."""
