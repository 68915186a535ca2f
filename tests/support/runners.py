"""Runners of a batcher that are coroutines."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from calibox_server.queue import Reply

T = TypeVar("T")
R = TypeVar("R")


def in_task(run: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> Callable[[Sequence[T], Reply[Sequence[R]]], None]:
    """What a `Batcher` calls, where ``run`` returns what it answers."""
    waiting: dict[asyncio.Future[Sequence[R]], Reply[Sequence[R]]] = {}

    def start(batch: Sequence[T], reply: Reply[Sequence[R]]) -> None:
        task = asyncio.ensure_future(run(batch))
        waiting[task] = reply
        task.add_done_callback(ended)

    def ended(task: "asyncio.Future[Sequence[R]]") -> None:
        reply = waiting.pop(task)
        if (error := task.exception()) is None:
            reply.set_result(task.result())
        else:
            reply.set_exception(error)

    return start
