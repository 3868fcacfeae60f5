"""A headless Chromium, driven over WebDriver's plain HTTP: no package is needed for it."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PATIENCE = 120.0  # seconds for a page of a web UI that shares two cores with all that it shows
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing() -> str | None:
    """Why there can be no browser; None when there can."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} here: apt-get install chromium chromium-driver" if absent else None


class Browser:
    """One window."""

    def __init__(self, session: str):
        self._client = httpx.Client(base_url=session, timeout=60.0)

    def open(self, url: str) -> None:
        """Goes to a page."""
        self._post("/url", {"url": url})

    def script(self, code: str, *args: Any) -> Any:
        """Runs JavaScript; `return` gives a value."""
        return self._post("/execute/sync", {"script": code, "args": list(args)})

    def text(self) -> str:
        """All that the page shows."""
        return str(self.script("return document.body.innerText"))

    def wait_for(self, what: str, true: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Waits until something is there; tells what the page shows when it does not come."""
        deadline = time.monotonic() + seconds
        while True:
            found = true()
            if found:
                return found
            assert time.monotonic() < deadline, f"{what} did not come; the page shows: {self.text()[:3000]}"
            time.sleep(0.2)

    def see(self, text: str, seconds: float = PATIENCE) -> None:
        """Waits until the page shows a text."""
        self.wait_for(repr(text), lambda: text in self.text(), seconds)

    def find(self, xpath: str) -> str | None:
        """The first element, or None."""
        found = self._post("/elements", {"using": "xpath", "value": xpath})
        return found[0][ELEMENT] if found else None

    def click(self, xpath: str) -> None:
        """Clicks an element once it is there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            element = self.wait_for(xpath, lambda: self.find(xpath))
            try:
                self._post(f"/element/{element}/click", {})
                return
            except httpx.HTTPStatusError:
                assert time.monotonic() < deadline, f"{xpath} cannot be clicked"
                time.sleep(0.2)

    def resize(self, width: int, height: int) -> None:
        """Another size of the window."""
        self._post("/window/rect", {"width": width, "height": height})

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = self._client.get("/screenshot")
        answer.raise_for_status()
        path.write_bytes(base64.b64decode(answer.json()["value"]))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()["value"]


@contextmanager
def browser(profile: Path, width: int = 1500, height: int = 950) -> Iterator[Browser]:
    """A window; ended after, with its driver."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with (profile.parent / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"{url}/status", timeout=1.0)
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "chromedriver does not answer"
                time.sleep(0.05)
        options = {
            "args": [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            "binary": shutil.which("chromium"),
        }
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        answer = httpx.post(f"{url}/session", json=wanted, timeout=60.0)
        assert answer.is_success, answer.text
        session = f"{url}/session/{answer.json()['value']['sessionId']}"
        try:
            yield Browser(session)
        finally:
            httpx.delete(session, timeout=20.0)
    finally:
        driver.terminate()
        driver.wait(10)
