"""Algorithms that imitate: demonstrations, experts, learning algorithms, and the best of their own trials."""
