"""A run that has the cores to itself: who gets one, and when an engine is opened for it."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.errors import BundleError
from calibox_core.fusion import Exponents
from calibox_server.choice_cache import ChoiceCache
from calibox_server.engine import EngineInput, EngineOutput, example_batch
from calibox_server.engine_choice import EngineOpener
from calibox_server.engine_runner import EngineRunner, RawDetections, Work, clock
from calibox_server.lone import LoneEngine, runner_alone
from calibox_server.lone_choice import LoneOpener, run_rates
from calibox_server.metrics import Metrics
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.other_load import OtherLoad
from calibox_server.parameters import Parameters
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S

PARAMETERS = Parameters(Exponents(1.0, 0.5, 0.0), 0.1, 0.6, 10, None, (0,), 1000.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.0)


class Watched:
    """An engine for runs alone, whose runs wait while the gate is closed."""

    name, max_batch, instances, in_flight, lone_threads = "watched", 1, 2, 2, 4

    def __init__(self, bundle: Bundle) -> None:
        self._real = OnnxRuntimeEngine(bundle)
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.kinds: list[str] = []

    def run(self, batch: EngineInput) -> EngineOutput:
        return self._noted("beside others", batch)

    def run_alone(self, batch: EngineInput) -> EngineOutput:
        return self._noted("alone", batch)

    def open_lone(self, threads: int) -> None:
        raise AssertionError(f"it is open; asked for {threads}")

    def close_lone(self) -> None:
        raise AssertionError("it stays open")

    def _noted(self, kind: str, batch: EngineInput) -> EngineOutput:
        self.kinds.append(kind)
        self.arrived.release()
        assert self.gate.wait(PATIENCE_S)
        return self._real.run(batch)


class Bench:
    """Runners of one process."""

    def __init__(self, bundle: Bundle, runners: int = 1) -> None:
        self.engine = Watched(bundle)
        busy: set[int] = set()
        metrics = Metrics().model("tiny", "1", ("a", "b", "c"))
        self.runners = [EngineRunner(self.engine, metrics, f"tiny-{i}", busy) for i in range(runners)]

    async def start(self, runner: int = 0) -> "asyncio.Future[Sequence[RawDetections]]":
        reply: asyncio.Future[Sequence[RawDetections]] = asyncio.get_running_loop().create_future()
        work = Work(np.zeros((96, 128, 3), np.uint8), PARAMETERS, 0, clock())
        self.runners[runner].run([work], reply)
        await asyncio.to_thread(self.engine.arrived.acquire, timeout=PATIENCE_S)
        return reply


@pytest.mark.parametrize("runners", [1, 2])
def test_only_a_run_that_no_other_of_the_process_goes_beside_has_the_cores(bundle: Bundle, runners: int) -> None:
    bench = Bench(bundle, runners)

    async def scenario() -> None:
        first = await bench.start(0)
        second = await bench.start(runners - 1)
        bench.engine.gate.set()
        await asyncio.wait_for(asyncio.gather(first, second), PATIENCE_S)
        await asyncio.wait_for(await bench.start(runners - 1), PATIENCE_S)

    asyncio.run(scenario())
    assert bench.engine.kinds == ["alone", "beside others", "alone"]


def test_runs_alone_find_the_same(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(bundle, lone_threads=2)
    assert isinstance(engine, LoneEngine)
    assert engine.lone_threads == 2
    for size in (1, 3):
        batch = example_batch(bundle.manifest, size)
        for alone, usual in zip(engine.run_alone(batch), engine.run(batch), strict=True):
            assert np.allclose(alone, usual, rtol=0, atol=1e-5)
    engine.close_lone()
    assert runner_alone(engine) is None


def test_as_many_threads_as_always_open_nothing(bundle: Bundle) -> None:
    assert OnnxRuntimeEngine(bundle, intra_op_threads=2, lone_threads=2).lone_threads == 0
    assert OnnxRuntimeEngine(bundle).lone_threads == 0


def test_both_ways_are_measured_in_turns(bundle: Bundle) -> None:
    assert min(run_rates(OnnxRuntimeEngine(bundle, lone_threads=2), bundle.manifest)) > 0


class Shop:
    """Opens engines for runs alone; the rates are given and not measured."""

    def __init__(self, tmp_path: Path, bundle: Bundle, rates: tuple[float, float] = (100.0, 160.0)) -> None:
        self.cache = ChoiceCache(tmp_path / "cache.json")
        self.bundle = bundle
        self.rates = rates
        self.measured = 0
        self.left = 1.0

    def open(self, *, cores: int = 4, threads: int = 1) -> int:
        engine = OnnxRuntimeEngine(self.bundle, intra_op_threads=threads)
        LoneOpener(self.cache, cores, lambda: self.left, self._rates)(self.bundle, engine, threads)
        return engine.lone_threads

    def _rates(self, *_: Any) -> tuple[float, float]:
        self.measured += 1
        return self.rates


@pytest.mark.parametrize(("by_all", "threads"), [(160.0, 4), (114.0, 0), (60.0, 0)])
def test_an_engine_is_opened_where_that_is_clearly_quicker_and_it_is_remembered(
    tmp_path: Path, bundle: Bundle, by_all: float, threads: int
) -> None:
    shop = Shop(tmp_path, bundle, (100.0, by_all))
    with capture_logs() as lines:
        assert [shop.open(), shop.open()] == [threads, threads]
    assert shop.measured == 1
    (line,) = lines
    assert (line["event"], line["run"]) == ("lone_run_chosen", f"{threads or 1} threads")
    assert line["milliseconds"]["1 threads"] == 10.0


def test_nothing_is_measured_without_time_or_where_every_run_has_all_cores(tmp_path: Path, bundle: Bundle) -> None:
    shop = Shop(tmp_path, bundle)
    assert shop.open(cores=2, threads=2) == 0
    shop.left = 0.0
    assert shop.open() == 0
    assert shop.measured == 0
    shop.left = 1.0
    assert shop.open() == 4
    shop.left = 0.0
    assert shop.open() == 4  # what is known takes no time


def test_beside_others_nothing_is_decided_or_kept(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, bundle)
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.5)
    with capture_logs() as lines:
        assert shop.open() == 0
    assert [line["reason"] for line in lines] == ["others took 50% of the cores"]
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.0)
    assert shop.open() == 4


def test_an_engine_that_cannot_be_opened_again_serves_as_always(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise BundleError("the file is gone")

    monkeypatch.setattr(OnnxRuntimeEngine, "open_lone", refuse)
    with capture_logs() as lines:
        assert Shop(tmp_path, bundle).open() == 0
    assert [(line["event"], line["reason"]) for line in lines] == [("lone_run_unusable", "the file is gone")]


@pytest.mark.parametrize(("asked", "threads"), [(3, 3), (1, 0), (None, 0)])
def test_what_is_set_is_opened_unmeasured(bundle: Bundle, asked: int | None, threads: int) -> None:
    engine = EngineOpener(Settings(engine="onnxruntime", lone_threads=asked))(bundle)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert engine.lone_threads == threads
