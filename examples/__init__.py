"""Programs to run and to read; each is one file and one line to start."""
