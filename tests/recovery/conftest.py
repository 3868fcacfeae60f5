"""How long the random kills go on."""

import os

import pytest


@pytest.fixture
def hunt_seconds() -> float:
    """Seconds: SOAK_MINUTES of `make soak`, else a few."""
    minutes = float(os.environ.get("SOAK_MINUTES", "0"))
    return minutes * 60 or 12.0
