"""Asks the writer of a running stream to do something; at rest there is nobody to ask."""

from __future__ import annotations

from typing import Any

import httpx

from tallystream.errors import TallyError, UsageError, WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse.read import live_address

# A snapshot of a large warehouse to a far store takes its time; a writer that died is noticed at once.
TIMEOUT = httpx.Timeout(3600.0, connect=5.0)


def ask_writer(settings: Settings, action: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """The writer's answer; None when no stream runs on this TALLY_HOME.

    Raises:
        TallyError: the writer refused, in its own words.
        WarehouseError: it died or fell silent while it was at work; running the command again is safe.
    """
    found = live_address(settings)
    if found is None:
        return None
    try:
        answer = httpx.post(
            f"{found['admin']}/actions/{action}",
            json=body,
            headers={"Authorization": f"Bearer {found['token']}"},
            timeout=TIMEOUT,
        )
    except httpx.ConnectError:
        return None
    except httpx.HTTPError as error:
        raise WarehouseError(
            f"the running stream did not finish the {action}: {type(error).__name__}; see `tally status`, then run this again"
        ) from None
    if answer.is_success:
        done: dict[str, Any] = answer.json()
        return done
    raise (UsageError if answer.status_code == 400 else TallyError)(_told(answer, action))


def _told(answer: httpx.Response, action: str) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the running stream answered the {action} with {answer.status_code}: {answer.text[:300]}"
