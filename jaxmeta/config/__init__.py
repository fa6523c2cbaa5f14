"""Configs as JSON, and checks of their fields."""
