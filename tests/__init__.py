"""The test suite: what the engine promises, each promise with the test that breaks when it does."""
