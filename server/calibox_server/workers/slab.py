"""Memory that a front end shares with the engine process, for the images of one model and what was found on them.

A slot holds an input image and behind it room for the engine's rows, or for the sentence of an error, and room for the
candidates that some ask for, whose pages are not touched otherwise. Only one side uses a slot at a time: the front end
until it asks, the engine process until it answers. Letters: H, W of the model's input, n rows, K candidates.
"""

import heapq
import mmap
import os
import weakref
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibox_core.manifest import Manifest
from calibox_server.engine import CandidateOutput, EngineOutput
from calibox_server.errors import OverloadedError
from calibox_server.slots import Slot
from calibox_server.workers.shared import map_memory, new_memory

_ROW = 32  # bytes: a box of four float32, a label, three scores
_CANDIDATE = 28  # bytes: a box, a label, two scores
_SENTENCE = 2048  # bytes that there are at least for a sentence
_LINE = 64  # bytes of the processor's cache: rows and pixels share none


@dataclass(frozen=True, slots=True)
class Layout:
    """Where what lies. Sizes in bytes."""

    height: int
    width: int
    rows: int  # most of them
    candidates: int = 0  # K

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """For a model."""
        nms = manifest.nms
        return cls(manifest.input.height, manifest.input.width, nms.max_detections, nms.pre_nms_top_k)

    @property
    def room_at(self) -> int:
        """Where in a slot the rows begin."""
        return _up(self.height * self.width * 3, _LINE)

    @property
    def room(self) -> int:
        """Length of the rows' room."""
        return max(self.rows * _ROW, _SENTENCE)

    @property
    def candidates_at(self) -> int:
        """Where in a slot the candidates begin."""
        return _up(self.room_at + self.room, _LINE)

    @property
    def stride(self) -> int:
        """From one slot to the next: whole pages, so that each can be given back."""
        return _up(self.candidates_at + self.candidates * _CANDIDATE, mmap.PAGESIZE)


class Slab:
    """Slots in shared memory.

    Args:
        fd: of the memory; not needed any more afterwards.
        layout: of a slot.
    """

    def __init__(self, fd: int, layout: Layout) -> None:
        self.layout = layout
        self._map = map_memory(fd)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._pixels = layout.height * layout.width * 3
        self._stride, self._room_at = layout.stride, layout.room_at

    def image(self, index: int) -> Slot:
        """A new view of a slot's image, uint8 ``[H, W, 3]``."""
        start = index * self._stride
        return self._bytes[start : start + self._pixels].reshape(self.layout.height, self.layout.width, 3)

    def write_rows(self, index: int, rows: EngineOutput) -> int:
        """Puts an image's rows into its slot, at most as many as there is room for. Returns how many."""
        n = min(len(rows.labels), self.layout.rows)
        start = index * self._stride + self._room_at
        ends = start + n * np.array([16, 20, 24, 28, 32])
        boxes = self._bytes[start : ends[0]].view(np.float32)
        boxes[:] = rows.boxes[:n].reshape(-1)
        self._bytes[ends[0] : ends[1]].view(np.int32)[:] = rows.labels[:n]
        for i, scores in enumerate((rows.classification_scores, rows.localization_scores, rows.scores), 1):
            self._bytes[ends[i] : ends[i + 1]].view(np.float32)[:] = scores[:n]
        return n

    def read_rows(self, index: int, n: int) -> EngineOutput:
        """A copy of what `write_rows` put there."""
        start = index * self._stride + self._room_at
        copy = self._bytes[start : start + n * _ROW].copy()
        scores_3n = copy[20 * n :].view(np.float32).reshape(3, n)
        return EngineOutput(
            num_detections=np.array([n], np.int32),
            boxes=copy[: 16 * n].view(np.float32).reshape(n, 4),
            labels=copy[16 * n : 20 * n].view(np.int32),
            classification_scores=scores_3n[0],
            localization_scores=scores_3n[1],
            scores=scores_3n[2],
        )

    def write_candidates(self, index: int, found: CandidateOutput) -> None:
        """Puts an image's candidates into its slot, padding included; a graph has as many as the layout."""
        start = index * self._stride + self.layout.candidates_at
        for values in found:
            end = start + values.nbytes
            self._bytes[start:end].view(values.dtype)[:] = values.reshape(-1)
            start = end

    def read_candidates(self, index: int) -> CandidateOutput:
        """A copy of what `write_candidates` put there."""
        k = self.layout.candidates
        start = index * self._stride + self.layout.candidates_at
        copy = self._bytes[start : start + k * _CANDIDATE].copy()
        scores_2k = copy[20 * k :].view(np.float32).reshape(2, k)
        return CandidateOutput(
            candidate_boxes=copy[: 16 * k].view(np.float32).reshape(k, 4),
            candidate_labels=copy[16 * k : 20 * k].view(np.int32),
            candidate_classification_scores=scores_2k[0],
            candidate_localization_scores=scores_2k[1],
        )

    def write_sentence(self, index: int, sentence: str) -> int:
        """Puts a sentence into the room for rows, cut to it. Returns its length in bytes."""
        text = sentence.encode()[: self.layout.room]
        start = index * self._stride + self._room_at
        self._bytes[start : start + len(text)] = np.frombuffer(text, np.uint8)
        return len(text)

    def read_sentence(self, index: int, length: int) -> str:
        """What `write_sentence` put there."""
        start = index * self._stride + self._room_at
        return self._bytes[start : start + length].tobytes().decode(errors="ignore")

    def forget(self, index: int) -> None:
        """Gives a slot's pages back to the system."""
        self._map.madvise(mmap.MADV_REMOVE, index * self._stride, self._stride)


class SharedSlots(Slab):
    """The front end's side: hands out slots; any thread may take and give.

    A slot that its taker forgot, because its caller left for example, comes back when the garbage collector finds it.

    Args:
        layout: of a slot.
        count: slots; the pages of those that were never used take no memory.
        keep: lowest slots that keep their pages once they were used.
    """

    def __init__(self, layout: Layout, *, count: int, keep: int) -> None:
        self.fd = new_memory(count * layout.stride, "slots")
        super().__init__(self.fd, layout)
        weakref.finalize(self, os.close, self.fd)
        self._count = count
        self._keep = keep
        self._free = list(range(count))  # a heap; its operations are atomic
        self._lent: dict[int, tuple[int, weakref.ref[Slot]]] = {}  # by the identity of the view

    @property
    def free(self) -> int:
        """Slots that nobody uses."""
        return len(self._free)

    def copy_of_fd(self) -> int:
        """A descriptor of the memory, to be given away."""
        return os.dup(self.fd)

    def take(self) -> Slot:
        """The lowest free slot, so that few pages are ever touched; with whatever pixels it had.

        Raises:
            OverloadedError: all are in use.
        """
        index = self._take()
        view = self.image(index)
        name = id(view)
        # Not bound to `self`: the memory of an unloaded model must not wait for a garbage collection.
        self._lent[name] = index, weakref.ref(view, partial(_come_back, self._lent, self._free, name))
        return view

    def give(self, slot: Slot) -> None:
        """Takes a slot back; memory that is somebody else's is let go."""
        lent = self._lent.pop(id(slot), None)
        if lent is not None:
            self.release(lent[0])

    def keep_for_engine(self, slot: Slot) -> int:
        """The number of a slot, which is now the caller's to `release`; pixels of other memory are copied into one.

        Raises:
            OverloadedError: they are, and all slots are in use.
        """
        lent = self._lent.pop(id(slot), None)
        if lent is not None:
            return lent[0]
        index = self._take()
        self.image(index)[:] = slot
        return index

    def release(self, index: int) -> None:
        """Makes a slot free."""
        if index >= self._keep:
            self.forget(index)
        heapq.heappush(self._free, index)

    def _take(self) -> int:
        try:
            return heapq.heappop(self._free)
        except IndexError:
            raise OverloadedError(
                f"all {self._count} images that this server holds at once are in use; try again later", retry_after=1
            ) from None


def _come_back(
    lent: dict[int, tuple[int, "weakref.ref[NDArray[np.uint8]]"]], free: list[int], name: int, _: object
) -> None:
    found = lent.pop(name, None)
    if found is not None:
        heapq.heappush(free, found[0])


def _up(size: int, to: int) -> int:
    """The next multiple of ``to``."""
    return -(-size // to) * to
