"""The engine process's end of a front end: questions come in, answers go out. On the event loop.

A front end's image enters the same queue as everything else. No task and no future is made for it: its reply writes the
rows into its slot and a record onto the channel.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from calibox_core.fusion import Exponents
from calibox_server.engine_line import EngineLine
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.errors import ServiceError, StoppingError
from calibox_server.parameters import Parameters
from calibox_server.queue import Entry
from calibox_server.workers import messages
from calibox_server.workers.channel import Channel, close_all
from calibox_server.workers.messages import (
    Ask,
    code_of_error,
    head,
    pack_answer,
    priority_of,
    read_asks,
    read_head,
)
from calibox_server.workers.slab import Layout, Slab

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Offered:
    """One model that front ends may ask."""

    line: EngineLine
    layout: Layout


@dataclass(frozen=True, slots=True)
class Shared:
    """One model for one front end, which sent its memory."""

    line: EngineLine
    slab: Slab


class SlotReply:
    """Answers one image of a front end."""

    __slots__ = ("_candidates", "_link", "_number", "_slab", "_slot", "over")

    def __init__(self, link: "FrontLink", slab: Slab, ask: Ask) -> None:
        self._link = link
        self._slab = slab
        self._slot = ask.slot
        self._number = ask.number
        self._candidates = bool(ask.candidates)
        self.over = False  # answered, or nobody is there any more

    def done(self) -> bool:
        """Whether the front end was answered or left."""
        return self.over

    def set_result(self, raw: RawDetections) -> None:
        """Answers with rows."""
        count = self._slab.write_rows(self._slot, raw.rows)
        if self._candidates and raw.candidates is not None:
            self._slab.write_candidates(self._slot, raw.candidates)
        self._end(pack_answer(0, raw.batch, count, self._number, raw.engine))

    def set_exception(self, error: BaseException) -> None:
        """Answers with an error; what the server itself did wrong is logged here, with its cause."""
        if error.__cause__ is not None:
            log.error("batch_failed", exc_info=error.__cause__)
        known = error if isinstance(error, ServiceError) else ServiceError("the engine failed on this batch")
        length = self._slab.write_sentence(self._slot, str(known))
        self._end(pack_answer(code_of_error(known), 0, length, self._number, 0.0))

    def _end(self, record: bytes) -> None:
        self.over = True
        self._link.ended(self._number, record)


class FrontLink:
    """One front end.

    Args:
        end: of the socket between the two.
        ordered: called with kind, number and descriptors of what is about models and not about images.
        lost: called when the front end is gone; its images are out of the queue by then.
    """

    def __init__(
        self,
        end: socket.socket,
        ordered: Callable[["FrontLink", int, int, list[int]], None],
        lost: Callable[["FrontLink"], None],
    ) -> None:
        self._ordered = ordered
        self._lost = lost
        self._shared: dict[int, Shared] = {}
        self._entries: dict[int, tuple[EngineLine, Entry[Work, RawDetections], SlotReply]] = {}
        self.invited: dict[int, Offered] = {}  # models that may still be asked, by number
        self.applied = 0  # number of the catalogue that it goes by
        self.channel = Channel(end, self._received, self._left)

    def invite(self, number: int, offered: Offered) -> None:
        """It may ask a model from now on."""
        self.invited[number] = offered
        offered.line.invite(1)

    def ended(self, number: int, record: bytes) -> None:
        """An image was answered."""
        del self._entries[number]
        self.channel.note(record)

    def _received(self, packet: bytes, fds: list[int]) -> None:
        if packet[0] in (messages.ASK, messages.CANCEL):
            for ask in read_asks(packet):
                if ask.kind == messages.ASK:
                    self._ask(ask)
                else:
                    self._cancel(ask.number)
            return
        kind, number = read_head(packet)
        if kind == messages.SLAB:
            self._share(number, fds)
        elif kind == messages.LET_GO:
            self._let_go(number)
        else:
            self._ordered(self, kind, number, fds)

    def _share(self, number: int, fds: list[int]) -> None:
        offered = self.invited.get(number)
        if offered is not None:
            self._shared[number] = Shared(offered.line, Slab(fds[0], offered.layout))
        close_all(fds)

    def _ask(self, ask: Ask) -> None:
        shared = self._shared.get(ask.model)
        if shared is None:
            self.channel.note(pack_answer(code_of_error(StoppingError("")), 0, 0, ask.number, 0.0))
            return
        priority, steps = priority_of(ask.priority), ask.refine_steps
        parameters = Parameters(
            exponents=Exponents(ask.a, ask.b, ask.g),
            score_threshold=ask.score_threshold,
            iou_threshold=ask.iou_threshold,
            max_detections=shared.slab.layout.rows,  # this and what follows is the front end's to apply
            classes=None,
            refine_steps=(steps,),
            timeout_ms=0.0,
            priority=priority,
        )
        now = clock()
        reply = SlotReply(self, shared.slab, ask)
        work = Work(shared.slab.image(ask.slot), parameters, steps, now, bool(ask.candidates))
        entry: Entry[Work, RawDetections] = Entry(work, reply, arrived=now, deadline=ask.deadline, priority=priority)
        self._entries[ask.number] = shared.line, entry, reply
        shared.line.enter(entry)

    def _cancel(self, number: int) -> None:
        found = self._entries.get(number)
        if found is None:
            return  # the answer is under way
        line, entry, reply = found
        entry.work.unwanted = True
        if not entry.taken:  # otherwise the slot is free when the batch ends
            line.leave(entry)
            reply.set_exception(StoppingError("nobody waits for this answer"))

    def _let_go(self, number: int) -> None:
        offered = self.invited.pop(number, None)
        self._shared.pop(number, None)
        if offered is not None:
            offered.line.invite(-1)

    def _left(self) -> None:
        for line, entry, reply in self._entries.values():
            reply.over = entry.work.unwanted = True
            line.leave(entry)
        self._entries.clear()
        for number in list(self.invited):
            self._let_go(number)
        self._lost(self)

    def tell(self, kind: int, number: int, *fds: int) -> None:
        """Sends what is not an answer."""
        self.channel.send(head(kind, number), fds)
