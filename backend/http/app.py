"""The ML backend that Label Studio talks to. A click goes to ``predict`` here, then to ``answer``.

Run it with ``uvicorn --factory backend.http.app:create_app``, with as many ``--workers`` as fit in
memory: no process needs to remember anything from one request to the next.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from backend.answer import answer
from backend.click.reply import to_json
from backend.http import status_page
from backend.http.auth import BasicAuth
from backend.http.errors import answer_errors
from backend.http.webhook import keep_event
from backend.process.metrics import Metrics
from backend.process.services import Services, open_services
from pipeline.errors import RequestError
from pipeline.labelstudio.config import read_label_config
from pipeline.record import heartbeats, versions
from pipeline.record.tables import now
from pipeline.settings import Settings, load_settings
from pipeline.status import status
from pipeline.storage.disc import least_room

THREADS = 16  # that answer clicks in each process; most of them wait for an encode or a download
WEBHOOK_THREADS = 8  # that keep webhooks, so that no click waits for them and they for no click
NOTICE_THREADS = 2  # that answer the labelling pages' requests for a notice


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the app. It opens the database and loads the model when it starts.

    Args:
        settings: None: they are read now.

    Raises:
        SettingsError: as ``load_settings``.
    """
    settings = settings or load_settings()
    logging.basicConfig(level=settings.log_level)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_services(settings, metrics) as services:
            app.state.services = services
            app.state.clicks = CapacityLimiter(THREADS)
            app.state.webhooks = CapacityLimiter(WEBHOOK_THREADS)
            yield

    app = FastAPI(title="maskloop", lifespan=lifespan, openapi_url=None)
    answer_errors(app, metrics)
    let_in = BasicAuth(settings.backend)
    app.include_router(_open_routes(let_in))
    app.include_router(_routes(), dependencies=[Depends(let_in)])
    return app


def _open_routes(let_in: BasicAuth) -> APIRouter:
    router = APIRouter()
    few = CapacityLimiter(NOTICE_THREADS)  # Every open page asks, and no click may wait for that.

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process answers. This uses nothing shared, so that no click can delay it."""
        return {"status": "UP", "model_class": "SegNext"}

    @router.get("/notice")
    async def notice(
        request: Request, project: Annotated[int, Query(ge=0, lt=2**31)] = 0
    ) -> JSONResponse:
        """A line for the labelling page, which asks for it without a password.

        So it says only whether the model answers and how many images wait."""
        services = _services(request)
        text = await to_thread.run_sync(services.page_notice.text, project, limiter=few)
        headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store"}
        return JSONResponse({"text": text}, headers=headers)

    @router.get("/")
    async def front(request: Request) -> Response:
        """The status page for a browser, behind the password; others get what ``/health`` says."""
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(await health(), headers={"Vary": "Accept"})
        await let_in(request)
        content = await to_thread.run_sync(_status_page, _services(request))
        return HTMLResponse(content, headers=status_page.HEADERS)

    return router


def _routes() -> APIRouter:
    router = APIRouter()

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        clicks = request.app.state.clicks
        body = await _json(request, clicks)
        work = partial(_answer, _services(request), body)
        content = await to_thread.run_sync(work, limiter=clicks)
        return Response(content, media_type="application/json")

    @router.post("/webhook", status_code=201)
    async def webhook(request: Request) -> dict[str, str]:
        services, webhooks = _services(request), request.app.state.webhooks
        body = await _json(request, webhooks)
        event_id = await to_thread.run_sync(keep_event, services, body, limiter=webhooks)
        if event_id is not None:
            services.outbox.put(event_id)
        return {"status": "kept" if event_id is not None else "nothing to do"}

    @router.post("/setup")
    async def setup(request: Request) -> dict[str, str]:
        """Label Studio calls this often and expects an answer within 3 s, so it changes nothing."""
        body = await _json(request, request.app.state.webhooks)
        read_label_config(str(body.get("schema") or "") if isinstance(body, dict) else "")
        version, _ = await to_thread.run_sync(_services(request).runtime.serving.current)
        return {"model_version": version.name}

    @router.get("/versions")
    @router.post("/versions")
    async def list_versions(request: Request) -> dict[str, list[str]]:
        return {"versions": await to_thread.run_sync(_versions, _services(request))}

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        content = await to_thread.run_sync(_metrics, _services(request))
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/ready")
    async def ready(request: Request) -> JSONResponse:
        """Say that a click would be answered and logged: the database answers, a model is loaded,
        and the disc has room. ``silent`` says which other parts of the loop give no sign of life.
        """
        report = await to_thread.run_sync(_ready, _services(request))
        return JSONResponse(report, status_code=503 if "error" in report else 200)

    return router


def _answer(services: Services, body: Any) -> bytes:
    """The body of the answer to one ``POST /predict``."""
    began = time.perf_counter()
    asked, results = answer(services, body)
    content = to_json(results)
    services.metrics.predict_seconds.labels(asked=asked).observe(time.perf_counter() - began)
    return content


def _status_page(services: Services) -> str:
    settings = services.settings
    report = status(services.runtime)
    project = report["project"]
    tasks = "" if project is None else f"/projects/{project}/data"
    links = {
        "Label Studio": settings.label_studio.url.rstrip("/") + tasks,
        "FiftyOne": f"http://{settings.fiftyone.host}:{settings.fiftyone.port}",
    }
    return status_page.page(report, links, now())


def _versions(services: Services) -> list[str]:
    with services.runtime.sessions() as session:
        known = versions.versions(session)
    served = [version for version in known if version.status in ("serving", "retired")]
    return [version.name for version in sorted(served, key=lambda v: v.status != "serving")]


def _ready(services: Services) -> dict[str, Any]:
    silent = services.runtime.silent()
    version, _ = services.runtime.serving.current()
    services.metrics.serving.clear()
    services.metrics.serving.labels(version=version.name).set(1)
    report = {"status": "READY", "model_version": version.name, "silent": silent}
    if (room := least_room(services.settings)).full:
        sentence = f"The disc under {room.folder} is full; make room, or move the store."
        return {**report, "status": "DISC FULL", "error": sentence}
    return report


def _metrics(services: Services) -> bytes:
    # The other metrics matter most when the database is away.
    with suppress(SQLAlchemyError), services.runtime.sessions() as session:
        services.metrics.note_silence(heartbeats.ages(session))
    return generate_latest(services.metrics.registry)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _json(request: Request, limiter: CapacityLimiter) -> Any:
    """The request's JSON, parsed on the limited threads.

    Raises:
        RequestError: the body is not JSON or is too large.
    """
    limit = _services(request).settings.backend.max_body_bytes
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise RequestError("The request is too large; submit the annotation and go on.")
        chunks.append(chunk)
    try:
        return await to_thread.run_sync(_parse, chunks, limiter=limiter)
    except (ValueError, RecursionError):
        raise RequestError("The request is not JSON; send what Label Studio sends.") from None


def _parse(chunks: list[bytes]) -> Any:
    return json.loads(b"".join(chunks), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON, although Python's parser accepts it")
