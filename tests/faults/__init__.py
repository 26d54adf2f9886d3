"""Faults, made for real: killed processes, failing system calls, full disks, damaged files."""
