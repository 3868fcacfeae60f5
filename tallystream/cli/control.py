"""Asks the writer of a running stream to do something; at rest there is nobody to ask."""

from __future__ import annotations

from tallystream.warehouse.control import ask_writer

__all__ = ["ask_writer"]
