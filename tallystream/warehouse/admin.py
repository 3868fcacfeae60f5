"""The writer's small HTTP API on localhost: health and metrics for all, actions for who has the token."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tallystream.errors import TallyError, UsageError, WarehouseError

Action = Callable[[dict[str, Any]], dict[str, Any]]
START = 10.0  # seconds until the server answers
STOP = 5.0  # seconds for requests under way; the warehouse is closed after them


class AdminServer:
    """GET /health, GET /metrics, POST /actions/NAME, served from a thread.

    `actions` may grow after the start. Errors come back as {"error": sentence}: 400 wrong request, 401 wrong token,
    404 no such action, 409 refused by the engine, 500 a fault of ours.
    """

    def __init__(
        self,
        token: str,
        health: Callable[[], dict[str, Any]],
        registry: CollectorRegistry,
        actions: Mapping[str, Action],
    ):
        self._token = token
        self._health = health
        self._registry = registry
        self._actions = actions
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Serves on a free port of 127.0.0.1; returns the URL.

        Raises:
            WarehouseError: the server did not come up.
        """
        self._socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self.app(), log_config=None, log_level="error", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        # Not the main thread: there uvicorn would take SIGTERM and SIGINT away from the flow, and the last commit with it.
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="tally-admin", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise WarehouseError("the admin server did not start on 127.0.0.1; nothing was written, start again")
            time.sleep(0.005)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def stop(self) -> None:
        """Ends the server; requests under way get a few seconds."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP)
        if self._socket is not None:
            self._socket.close()

    def app(self) -> Starlette:
        """The routes. Other hosts' names are refused: a web page could point its own at 127.0.0.1."""
        return Starlette(
            routes=[
                Route("/health", self._get_health),
                Route("/metrics", self._get_metrics),
                Route("/actions/{name}", self._post_action, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
        )

    def _get_health(self, _request: Request) -> Response:
        return JSONResponse(self._health())

    def _get_metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _post_action(self, request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not secrets.compare_digest(given, f"Bearer {self._token}".encode()):
            return _error(
                401, "the token is missing or wrong; the one of this run is in run/live.json under TALLY_HOME"
            )
        name = request.path_params["name"]
        action = self._actions.get(name)
        if action is None:
            return _error(404, f"there is no action {name}; there are: {', '.join(sorted(self._actions)) or 'none'}")
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            return _error(400, "the body is no JSON")
        if not isinstance(body, dict):
            return _error(400, "the body is no JSON object")
        try:
            return JSONResponse(await run_in_threadpool(action, body))
        except UsageError as error:
            return _error(400, str(error))
        except TallyError as error:
            return _error(409, str(error))
        except Exception as error:
            # The caller learns what happened; the stream goes on.
            return _error(500, f"{name} failed: {type(error).__name__}: {error}")


def _error(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status_code=status)
