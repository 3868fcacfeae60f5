"""A registry that answers whatever a test says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, bytes]
HTML = b"<html><body>Please log in</body></html>"


class Server(ThreadingHTTPServer):
    """Answers by path; a callable is asked each time. Everything else is a 404 of no registry."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Answer | Callable[[], Answer]], port: int = 0):
        self.answers = answers
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path, (404, HTML))
        status, data = answer() if callable(answer) else answer
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(answers: dict[str, Answer | Callable[[], Answer]], port: int = 0) -> Iterator[Server]:
    with Server(answers, port) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()
