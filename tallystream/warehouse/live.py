"""Where a running writer is found; read by all who look for one, so it imports next to nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tallystream.settings import Settings


def live_file(settings: Settings) -> Path:
    """Where a running writer says how to reach it; readable by its user alone."""
    return settings.run_dir / "live.json"


def live_address(settings: Settings) -> dict[str, Any] | None:
    """{pid, quack, admin, token, started_at} of the running writer; None without one, or when it died."""
    try:
        found: dict[str, Any] = json.loads(live_file(settings).read_text())
        os.kill(int(found["pid"]), 0)
    except PermissionError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found
