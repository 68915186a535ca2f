"""`calibox serve` that keeps a little of every request, to prove that the check of memory would see it.

python -m benchmarks.soak.leaking BYTES OPTION...

With several HTTP workers this module is started for each front end too, where the requests come in.
"""

import os
import sys
from collections.abc import Sequence
from types import ModuleType

from calibox_core import cli
from calibox_server import serve
from calibox_server.app import Application
from calibox_server.service import Service
from calibox_server.workers import children, front
from calibox_server.workers.child import run_child

FRONT = "--front"  # before the arguments of a front end


def make_leak(module: ModuleType, size: int) -> None:
    """Lets a module build applications that keep so many bytes of each answer."""
    honest = module.build_app

    def leaking(service: Service) -> Application:
        count, kept = service.metrics.answered, []

        def keep(path: str, status: int) -> None:
            kept.append(os.urandom(size))  # no two pages alike, and none of zeros
            count(path, status)

        service.metrics.answered = keep  # type: ignore[method-assign]
        app: Application = honest(service)
        return app

    module.build_app = leaking  # type: ignore[attr-defined]


def leaking_fronts(size: int) -> None:
    """Lets the supervisor start front ends by this module; the engine process sees no request."""
    honest = children._command

    def command(number: int, fd: int) -> Sequence[str]:
        if number == children.ENGINE:
            return honest(number, fd)
        return [sys.executable, "-m", "benchmarks.soak.leaking", str(size), FRONT, str(fd), str(os.getpid())]

    children._command = command


def main() -> None:
    size = int(sys.argv[1])
    if sys.argv[2:3] == [FRONT]:
        del sys.argv[1:3]
        make_leak(front, size)
        run_child(front.serve)
        return
    make_leak(serve, size)
    leaking_fronts(size)
    sys.argv[1:2] = ["serve"]
    cli.main()


if __name__ == "__main__":
    main()
