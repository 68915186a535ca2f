"""Metrics that do not need a server."""

from pathlib import Path
from types import SimpleNamespace

from calibox_core.bundle import Bundle, read_bundle
from calibox_server.memory import MemoryMeter, resident_bytes
from calibox_server.metrics import Metrics
from tests.support.bundles import make_tiny_bundle


class Holder:
    """What holds an engine."""


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if line.startswith(name)]


def test_memory_of_an_engine_is_told_for_as_long_as_it_is_held() -> None:
    metrics, holder = Metrics(), Holder()
    metrics.model("a", "1").watch_memory(holder, 4096)
    assert lines(metrics, "calibox_engine_memory_bytes") == [
        'calibox_engine_memory_bytes{model="a",version="1"} 4096.0'
    ]
    del holder
    assert lines(metrics, "calibox_engine_memory_bytes") == ['calibox_engine_memory_bytes{model="a",version="1"} 0.0']


def test_a_model_that_is_loaded_again_goes_on_counting_unless_its_classes_changed() -> None:
    metrics = Metrics()
    first = metrics.model("a", "1", ["cat"])
    assert metrics.model("a", "1", ["cat"]).observe_scores == first.observe_scores
    assert metrics.model("a", "1", ["dog"]).observe_scores != first.observe_scores
    assert metrics.model("a", "2", ["cat"]).observe_scores != first.observe_scores


def test_an_engine_takes_what_the_process_grew_by_or_what_it_says_itself(tmp_path: Path) -> None:
    bundle, held = read_bundle(make_tiny_bundle(tmp_path)), []

    def grow(_: Bundle) -> SimpleNamespace:
        held.append(bytearray(b"\1" * (64 * 2**20)))  # written, so that it is resident
        return SimpleNamespace()

    meter = MemoryMeter(grow)  # type: ignore[arg-type]
    grown = meter.grown(bundle.manifest, meter.open(bundle))
    assert 32 * 2**20 < grown <= resident_bytes()
    telling = MemoryMeter(lambda _: SimpleNamespace(memory_bytes=7))  # type: ignore[arg-type, return-value]
    assert telling.grown(bundle.manifest, telling.open(bundle)) == 7
    assert telling.grown(bundle.manifest, SimpleNamespace()) == 0  # type: ignore[arg-type]
