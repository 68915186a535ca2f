"""Third stage: asking the server about every image, many at a time."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calibox_client.async_client import AsyncClient
from calibox_client.errors import CaliboxClientError
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer
from calibox_client.evaluation.work import WorkItem
from calibox_client.results import Detection, Detections


async def ask_all(
    client: AsyncClient,
    items: Sequence[WorkItem],
    parameters: Mapping[str, Any],
    *,
    concurrency: int,
    on_answer: Callable[[Answer], None],
) -> None:
    """Asks about every item, ``concurrency`` at a time; answers are handed over as they come, in any order.

    Args:
        client: of the server.
        items: images to ask about.
        parameters: of `AsyncClient.detect`, with ``model`` and ``version``, so that all answers are of one model.
        concurrency: requests in flight at most, at least 1.
        on_answer: called in the event loop's thread.

    Raises:
        EvaluationError: the first failure; the other requests are cancelled.
    """
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            on_answer(await _ask(client, item, parameters))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(work())
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None


async def _ask(client: AsyncClient, item: WorkItem, parameters: Mapping[str, Any]) -> Answer:
    start = time.perf_counter()
    try:
        found: Detections = await client.detect(item.path, **parameters)
    except CaliboxClientError as error:
        raise EvaluationError(f"image {item.image_id} ({item.path}): {error}") from error
    latency_ms = (time.perf_counter() - start) * 1000
    wanted = parameters["model"], parameters["version"]
    if (found.model, found.version) != wanted:
        raise EvaluationError(
            f"image {item.image_id}: {found.model}/{found.version} answered instead of {'/'.join(wanted)}"
        )
    return Answer(item.image_id, latency_ms, [_coco_result(one) for one in found])


def _coco_result(found: Detection) -> dict[str, Any]:
    x1, y1, x2, y2 = found.box
    return {
        "category_id": found.label_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": found.score,
        "classification_score": found.classification_score,
        "localization_score": found.localization_score,
    }
