"""Tallystream: every event is tallied exactly once, and everyone can check the books."""

__version__ = "0.1.0"
