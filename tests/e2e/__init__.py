"""The whole engine as a user has it: runtime and workers as processes, killed for real."""
