"""Named places where a test can kill the process: the proof of exactly-once is a sweep over them.

`TALLY_FAILPOINT=name` kills at the first pass, `name:3` at the third. The kill is SIGKILL:
no handler, no flush, no `finally`. Unset, a pass costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

_passes: dict[str, int] = {}


def hit(name: str) -> None:
    """Dies here when TALLY_FAILPOINT names this place and the pass is the chosen one."""
    wanted = os.environ.get("TALLY_FAILPOINT")
    if wanted is None:
        return
    place, _, nth = wanted.partition(":")
    if place != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
