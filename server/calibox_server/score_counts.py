"""How the scores of all detections are distributed, per class: counted exactly, in passes over many images at once.

Letters: K classes that are counted apart (and one for the rest), S scores (`SCORES`), N buckets, n detections.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibox_server.histogram_text import head, values

SCORES = ("classification", "localization", "score", "disagreement")
_PER_UNIT = 10
EDGES = tuple(i / _PER_UNIT for i in range(1, _PER_UNIT + 1))  # upper edges, included, as Prometheus counts
MOST_CLASSES = 100  # of a model, each 48 series; COCO has 80
REST = "(other)"  # name of all classes beyond; no class is called so
PASS = 64  # images that are gathered for a pass: its fixed cost is shared, and they hold less than 1 MB


class Scored(Protocol):
    """What is counted of one image."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """``[n]``, 0-based class index."""

    @property
    def classification_scores(self) -> NDArray[np.float32]:
        """``[n]``."""

    @property
    def localization_scores(self) -> NDArray[np.float32]:
        """``[n]``."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """``[n]``."""


class ScoreCounts:
    """Histograms of p, q, the reported score and |p - q| for each class of one model; any thread may use it.

    Args:
        classes: names, by label.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = [*classes[:MOST_CLASSES], REST]
        self._waiting: list[Scored] = []
        self._lock = threading.Lock()
        self._counts_KSN = np.zeros((len(self._names), len(SCORES), len(EDGES) + 1), np.int64)
        self._sums_KS = np.zeros((len(self._names), len(SCORES)))

    def counts(self, classes: Sequence[str]) -> bool:
        """Whether it was made for these classes."""
        return self._names == [*classes[:MOST_CLASSES], REST]

    def observe(self, images: Iterable[Scored]) -> None:
        """Takes the detections of some images; a pass counts them now or later."""
        with self._lock:
            self._waiting.extend(images)
            if len(self._waiting) >= PASS:
                self._count()

    def rows(self) -> Iterator[tuple[str, str, NDArray[np.int64], float]]:
        """Class, score, counts ``[N]`` of its buckets and the sum, of every class that was ever detected."""
        with self._lock:
            self._count()
            counts_KSN, sums_KS = self._counts_KSN.copy(), self._sums_KS.copy()
        for k in np.flatnonzero(counts_KSN.any(axis=(1, 2))):
            for s, score in enumerate(SCORES):
                yield self._names[k], score, counts_KSN[k, s], float(sums_KS[k, s])

    def _count(self) -> None:
        """Counts what waits; the lock is held."""
        images, self._waiting = self._waiting, []
        if not images:
            return
        labels_n = np.minimum(np.concatenate([image.labels for image in images]), len(self._names) - 1)
        p_n = np.concatenate([image.classification_scores for image in images]).astype(np.float64)
        q_n = np.concatenate([image.localization_scores for image in images]).astype(np.float64)
        score_n = np.concatenate([image.scores for image in images]).astype(np.float64)
        values_Sn = np.stack([p_n, q_n, score_n, np.abs(p_n - q_n)])
        # Of the buckets between the edges, in order; an upper edge belongs to its bucket.
        bucket_Sn = np.clip(np.ceil(values_Sn * _PER_UNIT).astype(np.int64) - 1, 0, len(EDGES))
        row_Sn = labels_n * len(SCORES) + np.arange(len(SCORES))[:, None]
        cell_Sn = row_Sn * self._counts_KSN.shape[2] + bucket_Sn
        counts = np.bincount(cell_Sn.ravel(), minlength=self._counts_KSN.size)
        sums = np.bincount(row_Sn.ravel(), values_Sn.ravel(), minlength=self._sums_KS.size)
        self._counts_KSN += counts.reshape(self._counts_KSN.shape)
        self._sums_KS += sums.reshape(self._sums_KS.shape)


FAMILY = "calibox_detection_scores"


def exposition(models: Mapping[tuple[str, str], ScoreCounts]) -> str:
    """The counts of every model, by name and version, as Prometheus reads them.

    Written here and not by the library, whose objects for thousands of lines would hold the interpreter for 0.1 s.
    """
    lines = head(FAMILY, "Scores of the detections in answers; disagreement is |classification - localization|.")
    for (model, version), counts in list(models.items()):
        for name, kind, counts_N, total in counts.rows():
            labels = {"model": model, "version": version, "class": name, "kind": kind}
            lines += values(FAMILY, labels, EDGES, counts_N, total)
    return "\n".join(lines) + "\n"
