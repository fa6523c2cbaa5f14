"""Algorithms that act on two levels: options, and policies over them."""
