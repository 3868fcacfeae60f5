"""Ends a flow cleanly: SIGTERM sets a flag, the sources end, Bytewax takes its last snapshot.

A raising signal handler (Python's SIGINT) would call `close()` on a sink with writes that no
commit holds, and leave with an error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

_stopping = threading.Event()


def install() -> None:
    """Listens to SIGTERM and SIGINT from now on."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    _stopping.set()


def stopping() -> bool:
    """True once the process was asked to end."""
    return _stopping.is_set()


def die_with_parent() -> None:
    """Kills this process when its supervisor's end of stdin closes, however the supervisor died.

    Otherwise a killed supervisor would leave a writer behind that holds the warehouse.
    """

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            continue
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()
