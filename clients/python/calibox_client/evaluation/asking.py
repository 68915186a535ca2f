"""Third stage: asking the server about every image, many at a time, with a journal and a progress bar."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from calibox_client.errors import CaliboxClientError
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer, Journal, Kept
from calibox_client.evaluation.raw_scores import RawScoresClient
from calibox_client.evaluation.work import WorkItem
from calibox_client.interruptible import run_interruptible
from calibox_client.progress import progress_bar
from calibox_client.results import Detections
from calibox_client.retries import RetryPolicy
from calibox_core.errors import ImageError

Connect = Callable[..., RawScoresClient]
_Kept = TypeVar("_Kept", bound=Kept)
Ask = Callable[[RawScoresClient, WorkItem], Awaitable[_Kept]]

TIMEOUT = 120.0  # seconds for one image, its repeats included; the server may take as long
# Far more patient than a single call: a server that restarts in the middle costs half a minute, not the run.
_RETRIES = RetryPolicy(attempts=15, first_pause=0.25, longest_pause=5.0)


@dataclass(slots=True)
class Tally:
    """What was counted while asking."""

    retries: int = 0
    asked: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float | None:
        """Images; None where none was asked about."""
        return self.asked / self.seconds if self.asked else None


@dataclass(frozen=True, slots=True)
class Asker:
    """Whom to ask, and how many at once."""

    server: str
    connect: Connect  # makes a client of an address and of `AsyncClient`'s keyword arguments
    concurrency: int

    def collect(self, what: str, work: Sequence[WorkItem], journal: Journal[_Kept], ask: Ask[_Kept]) -> Tally:
        """Asks about every image that is not in the journal yet.

        Args:
            what: is asked about, for the progress bar.
            work: images, all of them in the journal at the end.
            journal: of earlier answers; new ones are added.
            ask: one image.

        Raises:
            EvaluationError: the first failure; answers so far are kept.
        """
        try:
            return run_interruptible(self._collect(what, work, journal, ask))
        except EvaluationError as error:
            kept = sum(item.image_id in journal.answers for item in work)
            raise EvaluationError(
                f"{error}. {kept} of {len(work)} answers are kept; the same command goes on from there"
            ) from error

    async def _collect(self, what: str, work: Sequence[WorkItem], journal: Journal[_Kept], ask: Ask[_Kept]) -> Tally:
        tally = Tally()
        missing = [item for item in work if item.image_id not in journal.answers]

        def count_retry(_error: BaseException, _pause: float) -> None:
            tally.retries += 1

        with progress_bar(what, len(work), done=len(work) - len(missing), prints=False) as advance:

            def keep(answer: _Kept) -> None:
                journal.add(answer)
                tally.asked += 1
                advance()

            start = time.perf_counter()
            async with self.connect(self.server, timeout=TIMEOUT, retries=_RETRIES, on_retry=count_retry) as client:
                await ask_all(client, missing, ask, concurrency=self.concurrency, on_answer=keep)
            tally.seconds = time.perf_counter() - start
        return tally


async def ask_all(
    client: RawScoresClient,
    items: Sequence[WorkItem],
    ask: Ask[_Kept],
    *,
    concurrency: int,
    on_answer: Callable[[_Kept], None],
) -> None:
    """Asks about every item, ``concurrency`` at a time; answers are handed over as they come, in any order.

    Args:
        client: of the server.
        items: images to ask about.
        ask: one of them.
        concurrency: requests in flight at most, at least 1.
        on_answer: called in the event loop's thread.

    Raises:
        EvaluationError: the first failure; the other requests are cancelled.
    """
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            try:
                answer = await ask(client, item)
            except (CaliboxClientError, EvaluationError, ImageError, OSError) as error:
                raise EvaluationError(f"image {item.image_id} ({item.path}): {error}") from error
            on_answer(answer)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(work())
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None


async def ask_for_detections(client: RawScoresClient, item: WorkItem, parameters: Mapping[str, Any]) -> Answer:
    """One image's answer.

    Args:
        client: of the server.
        item: the image.
        parameters: of `AsyncClient.detect`, with ``model`` and ``version``, so that all answers are of one model.

    Raises:
        CaliboxClientError: as `AsyncClient.detect`.
        EvaluationError: another model answered.
    """
    start = time.perf_counter()
    found: Detections = await client.detect(item.path, **parameters)
    latency_ms = (time.perf_counter() - start) * 1000
    wanted = parameters["model"], parameters["version"]
    if (found.model, found.version) != wanted:
        raise EvaluationError(f"{found.model}/{found.version} answered instead of {'/'.join(wanted)}")
    return Answer(item.image_id, latency_ms, [one.as_coco() for one in found])
