"""The part of Confluent's registry API that the product uses, with basic authentication."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Schemas by id, from 100001 on; `refuse`: it takes no new one."""

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.schemas: dict[int, tuple[str, str]] = {}
        self.requests: list[str] = []
        self.refuse = False

    def register(self, subject: str, schema: Any) -> int:
        """The schema's id, a new one when it is not there."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        for number, entry in self.schemas.items():
            if entry == (subject, text):
                return number
        number = 100_001 + len(self.schemas)
        self.schemas[number] = (subject, text)
        return number


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _known(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        wanted = "Basic " + base64.b64encode(b"me:p@ss word").decode()
        if self.headers.get("Authorization") == wanted:
            return True
        self._answer(401, {"error_code": 401, "message": "Unauthorized"})
        return False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._known():
            return
        if self.server.refuse:
            self._answer(409, {"error_code": 409, "message": "incompatible with version 3"})
            return
        self._answer(200, {"id": self.server.register(self.path.split("/")[2], body["schema"])})

    def do_GET(self) -> None:
        if not self._known():
            return
        parts = self.path.strip("/").split("/")
        if parts[0] == "subjects":
            newest = [(n, schema) for n, (subject, schema) in self.server.schemas.items() if subject == parts[1]][-1:]
            for number, schema in newest:
                self._answer(200, {"id": number, "schema": schema})
            if not newest:
                self._answer(404, {"error_code": 40401, "message": "Subject not found"})
            return
        entry = self.server.schemas.get(int(parts[2]))
        if entry is None:
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        elif parts[3:] == ["versions"]:
            self._answer(200, [{"subject": entry[0], "version": 1}])
        else:
            self._answer(200, {"schema": entry[1]})

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """A running server."""
    with Server(port) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def address(server: Server, user: str = "me:p%40ss%20word@") -> str:
    """Its URL, with the password."""
    return f"http://{user}127.0.0.1:{server.server_port}/"
