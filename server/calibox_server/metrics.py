"""Prometheus metrics, in a registry of their own so that several servers fit in one process."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("decode", "queue", "engine", "total")
# Seconds. From a letterbox of a small image to the longest timeout that is usual; each step 2 to 2.5 times the last.
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class ModelMetrics:
    """What is counted for one version of one model."""

    def __init__(self, images: Counter, batch_size: Histogram, queue_depth: Gauge) -> None:
        self.images = images
        self.batch_size = batch_size
        self._queue_depth = queue_depth

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Reads the queue's length whenever metrics are asked for."""
        self._queue_depth.set_function(depth)


class Metrics:
    """Everything that `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "calibox_requests", "Detection requests by their end: ok, or the code of the error.", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self._stages = Histogram(
            "calibox_stage_seconds", "Time that an answered request spent in each stage.", ["stage"],
            buckets=STAGE_BUCKETS, registry=self.registry,
        )  # fmt: skip
        model = ["model", "version"]
        self._images = Counter("calibox_images", "Images that were detected on.", model, registry=self.registry)
        self._batch_size = Histogram(
            "calibox_batch_size", "Images per run of the engine.", model, buckets=BATCH_BUCKETS, registry=self.registry
        )
        self._queue_depth = Gauge("calibox_queue_depth", "Images that wait.", model, registry=self.registry)
        self._observe = {stage: self._stages.labels(stage).observe for stage in STAGES}

    def model(self, name: str, version: str) -> ModelMetrics:
        """The part of one version of one model."""
        labels = (name, version)
        return ModelMetrics(
            self._images.labels(*labels), self._batch_size.labels(*labels), self._queue_depth.labels(*labels)
        )

    def request_ended(self, code: str) -> None:
        """Counts a detection request: ``ok``, the code of its error, or ``client_closed``."""
        self._requests.labels(code).inc()

    def request_answered(self, seconds: dict[str, float]) -> None:
        """Notes the stage times of an answered request."""
        for stage, value in seconds.items():
            self._observe[stage](value)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
