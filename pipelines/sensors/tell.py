"""Where alerts go: one line of JSON each in TALLY_HOME/alerts.ndjson, for whatever watches it, and the sensor's log."""

import json
import logging

from pipelines.tally import now
from tallystream.settings import Settings


def tell(settings: Settings, what: str, level: str, sentence: str, log: logging.Logger) -> None:
    """Appends {"at", "what", "level", "sentence"}; level: ok, warn or error."""
    log.log({"ok": logging.INFO, "warn": logging.WARNING}.get(level, logging.ERROR), sentence)
    settings.root.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"at": now().isoformat() + "Z", "what": what, "level": level, "sentence": sentence})
    with (settings.root / "alerts.ndjson").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
