"""Algorithms that adapt by steps down a gradient."""
