"""Algorithms that adapt by gradient steps."""
