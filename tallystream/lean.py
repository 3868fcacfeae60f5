"""Keeps pandas out of a process: pyarrow and polars import it on their first array, whenever it is installed.

It is, with Great Expectations, and nothing but the control plane's checks asks for it. For the others it is a third of a
second of each start, which is a part of every recovery, and 50 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas:
    """A finder that says at once that there is none."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("this process keeps pandas out, see tallystream/lean.py", name=name)
        return None


def without_pandas() -> None:
    """Call it before anything else is imported, in processes of our own alone."""
    sys.meta_path.insert(0, _NoPandas())
