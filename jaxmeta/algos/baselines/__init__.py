"""Agents that do not adapt."""
