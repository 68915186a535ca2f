"""`calibox serve` that keeps a little of every request, to prove that the check of memory would see it.

python -m benchmarks.soak.leaking BYTES OPTION...
"""

import os
import sys

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from calibox_core import cli
from calibox_server import serve


class Leaking:
    """Middleware that keeps so many bytes of each call."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self._app = app
        self._size = size
        self._kept: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self._kept.append(os.urandom(self._size))  # no two pages alike, and none of zeros
        await self._app(scope, receive, send)


def main() -> None:
    size = int(sys.argv[1])
    honest = serve.build_app  # type: ignore[attr-defined]

    def leaking(*arguments: object, **options: object) -> FastAPI:
        app = honest(*arguments, **options)  # type: ignore[arg-type]
        app.add_middleware(Leaking, size=size)
        return app

    serve.build_app = leaking  # type: ignore[attr-defined]
    sys.argv[1:2] = ["serve"]
    cli.main()


if __name__ == "__main__":
    main()
