"""Prometheus metrics, in a registry of their own so that several servers fit in one process."""

import platform
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from calibox_core import __version__
from calibox_server.score_counts import ScoreCounts, Scored, exposition
from calibox_server.stage_counts import StageCounts

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


def _ignore(_: Iterable[Scored]) -> None:
    """Where the settings do not ask for scores."""


@dataclass(slots=True)
class ModelMetrics:
    """What is counted for one version of one model."""

    images: Counter
    batch_size: Histogram
    queue_depth: Gauge
    engine_memory: Gauge
    observe_scores: Callable[[Iterable[Scored]], None] = _ignore  # called with the images of each answer

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Reads the queue's length whenever metrics are asked for."""
        self.queue_depth.set_function(depth)

    def watch_memory(self, holder: object, size: int) -> None:
        """The engine takes ``size`` bytes for as long as ``holder`` lives."""
        alive = weakref.ref(holder)
        self.engine_memory.set_function(lambda: size if alive() is not None else 0)


class Metrics:
    """Everything that `/metrics` shows.

    Args:
        score_histograms: whether the scores of all detections are counted.
    """

    def __init__(self, *, score_histograms: bool = True) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = 0  # HTTP requests that are not answered yet; changed on the event loop only
        self._stages = StageCounts()
        self._scores: dict[tuple[str, str], ScoreCounts] = {}  # by name and version of the model
        self._count_scores = score_histograms
        self._requests = Counter(
            "calibox_requests",
            "Detection requests by their end: ok, or the code of the error. Requests that are refused for want of a "
            "key or by a rate are counted whatever they asked for.",
            ["code"], registry=self.registry,
        )  # fmt: skip
        self._answers = Counter(
            "calibox_http_responses", "Answers of all addresses; path is empty where there is nothing.",
            ["path", "status"], registry=self.registry,
        )  # fmt: skip
        self._refused = Counter(
            "calibox_refused_connections", "Connections that ended before a request was complete, by the error's code.",
            ["code"], registry=self.registry,
        )  # fmt: skip
        self._ended: dict[str, Callable[[], None]] = {}
        self._answered: dict[tuple[str, int], Callable[[], None]] = {}
        self._add_models()
        self._add_process()

    def model(self, name: str, version: str, classes: Sequence[str] = ()) -> ModelMetrics:
        """The part of one version of one model; what was counted before goes on.

        Args:
            name, version: of the model.
            classes: names, by label.
        """
        labels = (name, version)
        return ModelMetrics(
            self._images.labels(*labels),
            self._batch_size.labels(*labels),
            self._queue_depth.labels(*labels),
            self._engine_memory.labels(*labels),
            self._counts(labels, classes).observe if self._count_scores else _ignore,
        )

    def request_ended(self, code: str) -> None:
        """Counts a detection request: ``ok``, the code of its error, or ``client_closed``."""
        count = self._ended.get(code)
        if count is None:
            count = self._ended[code] = self._requests.labels(code).inc
        count()

    def request_answered(self, seconds: dict[str, float]) -> None:
        """Notes the stage times of an answered request."""
        self._stages.observe(seconds)

    def answered(self, path: str, status: int) -> None:
        """Counts an answer of any address; ``path`` is its template."""
        count = self._answered.get((path, status))
        if count is None:
            count = self._answered[path, status] = self._answers.labels(path, status).inc
        count()

    def refused(self, code: str) -> None:
        """Counts a connection that was ended before it had sent a request."""
        self._refused.labels(code).inc()

    def exposition(self) -> bytes:
        """The text that Prometheus reads; any thread may ask."""
        counted = self._stages.exposition() + exposition(self._scores)
        return generate_latest(self.registry) + counted.encode()

    def _counts(self, labels: tuple[str, str], classes: Sequence[str]) -> ScoreCounts:
        known = self._scores.get(labels)
        if known is None or not known.counts(classes):
            known = self._scores[labels] = ScoreCounts(classes)
        return known

    def _add_models(self) -> None:
        model = ["model", "version"]
        self._images = Counter("calibox_images", "Images that were detected on.", model, registry=self.registry)
        self._batch_size = Histogram(
            "calibox_batch_size", "Images per run of the engine.", model, buckets=BATCH_BUCKETS, registry=self.registry
        )
        self._queue_depth = Gauge("calibox_queue_depth", "Images that wait.", model, registry=self.registry)
        self._engine_memory = Gauge(
            "calibox_engine_memory_bytes",
            "Memory of the engine: as it says itself, or as the process grew while it was opened and warmed up.",
            model, registry=self.registry,
        )  # fmt: skip

    def _add_process(self) -> None:
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files, start time
        PlatformCollector(registry=self.registry)
        in_flight = Gauge("calibox_requests_in_flight", "HTTP requests not answered yet.", registry=self.registry)
        in_flight.set_function(lambda: self.in_flight)
        started = time.monotonic()
        uptime = Gauge("calibox_uptime_seconds", "Since the server began to load.", registry=self.registry)
        uptime.set_function(lambda: time.monotonic() - started)
        build = Info("calibox_build", "What runs here.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version()})
