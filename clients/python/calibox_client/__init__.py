"""Python client of a calibox server: detections with three scores, as typed results.

Needs an HTTP library, numpy and Pillow; imports nothing else of calibox. Names are loaded when they are first used,
because the `calibox` command imports this package only to list its subcommands.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibox_client.async_client import AsyncClient
    from calibox_client.client import Client
    from calibox_client.errors import (
        ApiError,
        BadReplyError,
        CaliboxClientError,
        DeadlineError,
        ImageInputError,
        MissingPackageError,
        OverloadedError,
        ServerDeadlineError,
        ServerUnreachableError,
    )
    from calibox_client.images import Encoding, ImageInput
    from calibox_client.models import ModelInfo
    from calibox_client.requests import DetectParameters
    from calibox_client.results import Detection, Detections
    from calibox_client.retries import RetryPolicy
    from calibox_client.streaming.answers import FrameAnswer

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadReplyError",
    "CaliboxClientError",
    "Client",
    "DeadlineError",
    "DetectParameters",
    "Detection",
    "Detections",
    "Encoding",
    "FrameAnswer",
    "ImageInput",
    "ImageInputError",
    "MissingPackageError",
    "ModelInfo",
    "OverloadedError",
    "RetryPolicy",
    "ServerDeadlineError",
    "ServerUnreachableError",
]

_HOMES = {
    "AsyncClient": "async_client",
    "Client": "client",
    "DetectParameters": "requests",
    "Detection": "results",
    "Detections": "results",
    "Encoding": "images",
    "FrameAnswer": "streaming.answers",
    "ImageInput": "images",
    "ModelInfo": "models",
    "RetryPolicy": "retries",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
