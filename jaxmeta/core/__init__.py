"""The engine: it knows no algorithm and no environment."""
