"""The engine, independent of algorithms and environments."""
