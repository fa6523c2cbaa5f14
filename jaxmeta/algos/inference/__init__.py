"""Algorithms that infer a belief about the task."""
