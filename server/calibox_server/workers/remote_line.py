"""The line of one model in front of an engine in another process.

Work keeps its slot until the engine process answers, and is handed to its successor where it ended before.
"""

import asyncio
from dataclasses import dataclass

from calibox_server.door import Door, Held
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.errors import DeadlineError, ServiceError, stopped_early
from calibox_server.queue import Priority
from calibox_server.workers.desk import Desk
from calibox_server.workers.messages import ASK as KIND
from calibox_server.workers.messages import Answer, Ask, code_of, error_of, pack_ask, pack_cancel
from calibox_server.workers.slab import SharedSlots


@dataclass(slots=True, eq=False)
class Asked:
    """One image that the engine process has, or will get."""

    slot: int
    work: Work
    deadline: float
    priority: Priority
    reply: asyncio.Future[RawDetections]


class RemoteLine(Door[Work, RawDetections]):
    """Hands images to the engine process.

    Args:
        slots: shared with it.
        desk: where it is reached.
        queue_size, reserved, instances, held: of the door.
    """

    decodes = False  # pixels go to the engine's process, not pictures

    def __init__(
        self,
        slots: SharedSlots,
        desk: Desk,
        *,
        queue_size: int,
        reserved: int = 0,
        instances: int = 1,
        held: Held | None = None,
    ) -> None:
        super().__init__(queue_size=queue_size, reserved=reserved, instances=instances, held=held)
        self.slots = slots
        self._desk = desk
        self._model: int | None = None  # as the engine process calls it; None while there is none
        self._asked: dict[int, Asked] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """Images that wait for an engine process; one that is there tells of the others itself."""
        return len(self._asked) if self._model is None else 0

    @property
    def model(self) -> int | None:
        """As the engine process calls it."""
        return self._model

    def connect(self, model: int | None) -> None:
        """An engine process knows this model by ``model``, and gets what waits; None: it ended, with all it had."""
        self._model = model
        for number, asked in list(self._asked.items()):
            if asked.reply.done():
                self._forget(number)
            elif model is not None:
                self._send(model, number, asked)

    def answered(self, answer: Answer) -> None:
        """The engine process is done with an image."""
        asked = self._asked.pop(answer.number)
        self._desk.forget(answer.number)
        if not asked.reply.done():
            if answer.code:
                sentence = self.slots.read_sentence(asked.slot, answer.length)
                asked.reply.set_exception(error_of(answer.code, sentence))
            else:
                asked.reply.set_result(self._result(asked, answer))
                self._note_pace(answer.engine / answer.batch)
        self.slots.release(asked.slot)

    async def close(self, timeout: float) -> bool:
        """Admits nothing more, waits at most ``timeout`` seconds for what was admitted, and ends the rest."""
        self._closing = True
        try:
            async with asyncio.timeout(timeout):
                while self.count.own:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            pass
        self.end()
        return not self.count.own

    def end(self) -> None:
        """Answers everybody who still waits."""
        self._closed = True
        for asked in self._asked.values():
            _fail(asked, stopped_early())

    async def _submit(self, work: Work, *, deadline: float, priority: Priority = Priority.NORMAL) -> RawDetections:
        if self._closed:
            self.slots.give(work.slot)
            raise stopped_early()
        loop, now = asyncio.get_running_loop(), clock()
        reply: asyncio.Future[RawDetections] = loop.create_future()
        asked = Asked(self.slots.keep_for_engine(work.slot), work, deadline, priority, reply)
        number = self._desk.expect(self)
        self._asked[number] = asked
        timer = loop.call_later(max(0.0, deadline - now), self._expire, asked, now)
        if self._model is not None:
            self._send(self._model, number, asked)
        try:
            return await reply
        finally:
            timer.cancel()
            if reply.done() and not reply.cancelled():
                reply.exception()  # seen, even if the caller was cancelled in the same moment
            if number in self._asked:
                self._take_back(number)

    def _result(self, asked: Asked, answer: Answer) -> RawDetections:
        # The way there and back counts as waiting.
        queue = max(0.0, clock() - asked.work.submitted - answer.engine)
        return RawDetections(
            self.slots.read_rows(asked.slot, answer.length),
            queue,
            answer.engine,
            answer.batch,
            candidates=self.slots.read_candidates(asked.slot) if asked.work.candidates else None,
        )

    def _send(self, model: int, number: int, asked: Asked) -> None:
        wanted = asked.work.parameters
        self._desk.note(
            pack_ask(
                Ask(
                    KIND,
                    code_of(asked.priority),
                    int(asked.work.candidates),
                    model,
                    asked.slot,
                    asked.work.refine_steps,
                    number,
                    *wanted.exponents,
                    wanted.score_threshold,
                    wanted.iou_threshold,
                    asked.deadline,
                )
            )
        )

    def _take_back(self, number: int) -> None:
        """Nobody waits for it any more; an engine process that has it says when the slot is free."""
        if self._model is None:
            self._forget(number)
        else:
            self._asked[number].reply.cancel()
            self._desk.note(pack_cancel(number))

    def _forget(self, number: int) -> None:
        self.slots.release(self._asked.pop(number).slot)
        self._desk.forget(number)

    @staticmethod
    def _expire(asked: Asked, since: float) -> None:
        waited = clock() - since
        _fail(
            asked,
            DeadlineError(
                f"the deadline passed in the queue or in the engine, {waited:.3f} s after the image was decoded; allow "
                "more with timeout_ms, or send less at once"
            ),
        )


def _fail(asked: Asked, error: ServiceError) -> None:
    if not asked.reply.done():
        asked.reply.set_exception(error)
