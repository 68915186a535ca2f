"""The metrics of every process for one that was asked: the supervisor carries questions and answers.

What a process had counted when it was asked last outlives it, so that sums do not fall by more than what came since.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from calibox_server.workers import messages
from calibox_server.workers.children import Child
from calibox_server.workers.exposition import counted, merged
from calibox_server.workers.messages import head
from calibox_server.workers.shared import new_document

_PATIENCE_S = 2.0  # for an answer; a process that hangs must not hold up what the others tell


@dataclass(slots=True, eq=False)
class Round:
    """One question."""

    asker: Child
    number: int  # as the asker calls it
    missing: set[int]  # processes that did not answer yet
    texts: dict[str, str]  # by the name of the process


class Gathering:
    """Every question that is open."""

    def __init__(self) -> None:
        self._past = ""  # what those counted that ended
        self._ends: Counter[str] = Counter()  # of processes, by name
        self._rounds: dict[int, Round] = {}
        self._numbers = itertools.count(1)
        self._asked_by_us: dict[int, set[int]] = {}  # per process, numbers of questions that it has

    def told(self, child: Child, number: int, text: str, everybody: Iterable[Child]) -> None:
        """A process tells its metrics: as the answer to a question, or because it asks for those of the others."""
        child.metrics = text
        if number in self._asked_by_us.get(child.number, ()):
            self._asked_by_us[child.number].discard(number)
            self._take(number, child.number, child.name, text)
        else:
            self._ask(child, number, text, [other for other in everybody if other is not child and other.ready])

    def ended(self, child: Child) -> None:
        """A process is gone."""
        self._past = counted_together(self._past, child.metrics)
        self._ends[child.name] += 1
        for number in self._asked_by_us.pop(child.number, set()):
            self._take(number, child.number, "", "")

    def _ask(self, asker: Child, number: int, text: str, others: list[Child]) -> None:
        ours = next(self._numbers) << 32 | number & 0xFFFF_FFFF  # no number that an asker itself would use
        self._rounds[ours] = Round(asker, number, {other.number for other in others}, {asker.name: text})
        for other in others:
            self._asked_by_us.setdefault(other.number, set()).add(ours)
            other.channel.send(head(messages.SNAPSHOT, ours))
        asyncio.get_running_loop().call_later(_PATIENCE_S, self._give_up, ours)
        self._finish_if_whole(ours)

    def _take(self, ours: int, process: int, name: str, text: str) -> None:
        found = self._rounds.get(ours)
        if found is not None:
            found.missing.discard(process)
            if name:
                found.texts[name] = text
            self._finish_if_whole(ours)

    def _give_up(self, ours: int) -> None:
        found = self._rounds.get(ours)
        if found is not None:
            found.missing.clear()
            self._finish_if_whole(ours)

    def _finish_if_whole(self, ours: int) -> None:
        found = self._rounds[ours]
        if not found.missing:
            del self._rounds[ours]
            document = new_document({**found.texts, "supervisor": exposition(self._ends), "": self._past})
            found.asker.channel.send(head(messages.SNAPSHOTS, found.number), [document])


def exposition(ends: Mapping[str, int]) -> str:
    """What the supervisor itself counts."""
    lines = [
        "# HELP calibox_process_ends_total Processes of this server that ended, and were started again.",
        "# TYPE calibox_process_ends_total counter",
        *(f'calibox_process_ends_total{{process="{name}"}} {count}' for name, count in ends.items()),
    ]
    return "\n".join(lines) + "\n"


def counted_together(one: str, other: str) -> str:
    """What two processes counted that ended."""
    return counted(merged({"a": one, "b": other}))
