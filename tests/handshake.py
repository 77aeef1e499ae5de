"""The smallest server that Label Studio accepts as an ML backend, for tests that need no model."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from tests.services.label_studio import free_port

PASSWORD = "backend-password"


class Handshake:
    """Answers the calls that attach a backend, behind HTTP Basic, and keeps webhook deliveries."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.deliveries: list[dict[str, Any]] = []
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), port=self.port, log_level="warning", ws="none")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Handshake:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def _app(self) -> FastAPI:
        def check(login: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
            if not secrets.compare_digest(login.password, PASSWORD):
                raise HTTPException(401)

        app = FastAPI(dependencies=[Depends(check)])

        @app.get("/health")
        def health() -> dict[str, str]:
            return {"status": "UP"}

        @app.post("/setup")
        def setup() -> dict[str, str]:
            return {"model_version": "base"}

        @app.post("/webhook", status_code=201)
        async def webhook(request: Request) -> dict[str, str]:
            self.deliveries.append(await request.json())
            return {}

        return app
