"""Death at a named place, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def killed_at(failpoint: str, script: str, *arguments: str) -> int:
    """Runs Python with a failpoint set; the exit code, -9 when it died there."""
    environment = {**os.environ, "TALLY_FAILPOINT": failpoint}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode
