"""Pages of other origins that may ask (Cross-Origin Resource Sharing)."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from calibox_server.options import items
from calibox_server.service import Service

READABLE = ["Server-Timing", "X-Request-Id", "Retry-After"]
SENDABLE = ["Authorization", "X-API-Key", "Content-Type", "X-Request-Id", "traceparent", "tracestate"]
PREFLIGHT_S = 600  # a browser asks again after ten minutes


def add_cors(app: FastAPI, service: Service) -> None:
    """Allows the origins that the settings name; without any, browsers refuse other origins by themselves.

    Keys travel in a header that pages set, so that cookies are never let through.
    """
    origins = items(service.settings.cors_origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=SENDABLE,
            expose_headers=READABLE,
            max_age=PREFLIGHT_S,
        )
