"""Tests of the vocabulary: values and what follows from them alone."""
