"""Meta-training on clients that keep their data."""
