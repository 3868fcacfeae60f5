"""Children that end with their parent: how they are started, and how all that they started is ended."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PROC = Path("/proc")
UP = "TALLY_UP"  # pid:beginning of the `tally up` whose children have this in their environment


def become_child() -> None:
    """Runs in a new child before its program: signals as a person's shell would have them, and death with the parent.

    A script's `tally up &` ignores SIGINT, children inherit that, and Dagster gives SIGTERM the handler of SIGINT:
    it could then only be killed. A parent that was killed can end nobody, so the kernel tells its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _find_prctl() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return found if PROC.exists() else None


# Looked up before a fork: after it, loading a library may wait for ever for a lock that another thread held.
_prctl = _find_prctl()


def of_session(leader: int) -> list[int]:
    """The living processes of the session that `leader` began, itself or not; orphans are in it too.

    Parents would not do: what is left when Dagster has ended has no parent any more that is ours.
    """
    found = []
    for stat in PROC.glob("[0-9]*/stat"):
        # One that ended between the two looks has no file any more.
        with suppress(OSError):
            state, _parent, _group, session = stat.read_text().rsplit(")", 1)[1].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def end_session(leader: int, patience: float) -> None:
    """Waits until nobody of a session lives: for `patience` seconds, as long again after SIGTERM, then SIGKILL."""
    for send in (None, signal.SIGTERM, signal.SIGKILL):
        if send is not None:
            for pid in of_session(leader):
                with suppress(ProcessLookupError):
                    os.kill(pid, send)
        deadline = time.monotonic() + patience
        while of_session(leader) and time.monotonic() < deadline:
            time.sleep(0.05)


def began_at(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with it a pid names one process and no later one. None: it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


def mark_of_self() -> dict[str, str]:
    """What a child's environment needs, so that `outlived` can tell."""
    return {UP: f"{os.getpid()}:{began_at(os.getpid())}"}


def outlived() -> bool:
    """Whether this process was started below a `tally up` that is gone; where there was none, no."""
    told = os.environ.get(UP)
    if told is None or not PROC.exists():
        return False
    pid, _, beginning = told.partition(":")
    return not pid.isdecimal() or began_at(int(pid)) != beginning
