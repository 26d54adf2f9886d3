"""Answers over the archive and the hot tier together: SQL, listings and ready-made analytics."""
