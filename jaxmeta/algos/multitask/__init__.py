"""Agents of many tasks that know which of them they are in."""
