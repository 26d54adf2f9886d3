"""The coordinator against a runtime with behaviour of its own, over real connections."""
