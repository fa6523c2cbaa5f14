"""Algorithms that adapt by the state of a sequence model."""
