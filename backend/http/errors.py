"""Answers errors with one sentence and an HTTP status, for Label Studio's log and for people."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError, StatementError
from starlette.requests import ClientDisconnect

from backend.process.metrics import Metrics
from model.errors import CheckpointError, ImageError, MaskloopError, PromptError
from pipeline.errors import (
    ImageSourceError,
    LabelConfigError,
    LabelStudioError,
    RequestError,
    UnknownRecordError,
)

log = logging.getLogger(__name__)

# Tasks and clicks that cannot be answered are the caller's errors; the others are our own.
CODES: dict[type[MaskloopError], int] = {
    UnknownRecordError: 404,
    RequestError: 404,
    PromptError: 422,
    LabelConfigError: 422,
    ImageError: 422,
    ImageSourceError: 424,
    LabelStudioError: 502,
    CheckpointError: 503,
}


def code_of(error: MaskloopError) -> int:
    """The HTTP status of an error; 503 for every kind that ``CODES`` does not list."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), 503)


def answer_errors(app: FastAPI, metrics: Metrics) -> None:
    """Turn every error of a route into ``{"error": sentence}``, logged and counted."""

    def answer(request: Request, error: Exception, code: int, sentence: str) -> JSONResponse:
        kind = type(error).__name__
        metrics.errors.labels(route=request.url.path[:40], kind=kind).inc()
        log.warning("%s answered %d %s: %s", request.url.path, code, kind, sentence)
        return JSONResponse({"error": sentence}, status_code=code)

    async def ours(request: Request, error: Exception) -> JSONResponse:
        code = code_of(error) if isinstance(error, MaskloopError) else 500
        return answer(request, error, code, str(error))

    async def database(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, StatementError) and isinstance(error.orig, RecursionError):
            return await too_deep(request, error)
        log.error("The database failed.", exc_info=error)
        sentence = "The database did not answer; see the backend's log and try again."
        return answer(request, error, 503, sentence)

    async def too_deep(request: Request, error: Exception) -> JSONResponse:
        sentence = "The request is nested too deeply; send what Label Studio sends."
        return answer(request, error, 404, sentence)

    async def gone(request: Request, error: Exception) -> Response:
        log.debug("%s: the client closed the connection.", request.url.path)
        return Response(status_code=400)  # The client does not read it any more.

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        sentence = "Something broke inside maskloop; see the backend's log and report it."
        return answer(request, error, 500, sentence)

    app.add_exception_handler(MaskloopError, ours)
    app.add_exception_handler(SQLAlchemyError, database)
    app.add_exception_handler(RecursionError, too_deep)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unexpected)
