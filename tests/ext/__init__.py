"""The compiled hot path, held against its plain twins."""
