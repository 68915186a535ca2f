"""How an engine is used is measured where it is not set, once, and kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import BuiltEngine, EngineError
from calibox_core.manifest import Manifest
from calibox_server.choice_cache import ChoiceCache
from calibox_server.engine import Engine, EngineInput, EngineOutput
from calibox_server.engine_choice import Choice
from calibox_server.other_load import OtherLoad
from calibox_server.service import Service
from calibox_server.settings import Settings
from calibox_server.tuning import Budget, Chooser, Shape, TunedOpener, candidates
from tests.support.bundles import make_tiny_bundle


@dataclass
class Pretended:
    """An engine that only knows its shape."""

    instances: int
    threads: int
    max_batch: int
    closed: bool = False
    on_cpu: bool = True
    name: str = "pretended"

    @property
    def in_flight(self) -> int:
        return self.instances

    def run(self, batch: EngineInput) -> EngineOutput:
        raise AssertionError(f"rates are given, not measured: {len(batch.images)} images")

    def close(self) -> None:
        self.closed = True


class Workshop:
    """Opens pretended engines and says how quick they are; each measurement takes half a second on its clock."""

    def __init__(self, tmp_path: Path, rates: dict[tuple[int, int, int], float], *, on_cpu: bool = True) -> None:
        self.bundle = read_bundle(make_tiny_bundle(tmp_path / "models"))
        self.cache = ChoiceCache(tmp_path / "cache.json")
        self.rates = rates
        self.on_cpu = on_cpu
        self.opened: list[Pretended] = []
        self.time = 0.0

    def open(self, *, tune_s: float = 100.0, cores: int = 4, **settings: Any) -> Pretended:
        engine = self.opener(Settings(**settings), tune_s, cores)(self.bundle)
        assert isinstance(engine, Pretended)
        return engine

    def opener(self, settings: Settings, tune_s: float, cores: int = 4) -> TunedOpener:
        return TunedOpener(settings, self.cache, self._opener, self._rate, cores, Budget(tune_s, lambda: self.time))

    def measured(self) -> list[tuple[int, int, int]]:
        shapes = [shape_of(engine) for engine in self.opened]
        self.opened.clear()
        return shapes

    def _opener(self, settings: Settings) -> Chooser:
        shop = self

        class Opening:
            def choose(self, bundle: Bundle) -> Choice:
                return self.open(bundle, None), None

            def open(self, _: Bundle, built: BuiltEngine | None) -> Engine:
                assert built is None  # the engine that was chosen at first
                shape = (settings.engine_instances, settings.intra_op_threads, settings.max_batch or 1)
                if shape not in shop.rates:
                    raise EngineError("this batch was not built")
                shop.opened.append(Pretended(*shape, on_cpu=shop.on_cpu))
                return shop.opened[-1]

        return Opening()

    def _rate(self, engine: Engine, manifest: Manifest) -> float:
        assert isinstance(engine, Pretended)
        self.time += 0.5
        return self.rates[shape_of(engine)]


def shape_of(engine: Pretended) -> tuple[int, int, int]:
    return engine.instances, engine.threads, engine.max_batch


def test_candidates_use_every_core_and_begin_with_the_usual_shape() -> None:
    shapes = candidates(Settings(), cores=4)
    assert [(s.instances, s.threads) for s in shapes if s.batch == 8] == [(4, 1), (2, 2), (1, 4)]
    usual = Settings()
    assert shapes[0] == Shape(usual.engine_instances, 1, 1)
    assert len(shapes) == len(set(shapes))


def test_what_is_set_is_kept() -> None:
    assert {s.instances for s in candidates(Settings(instances=2), cores=4)} == {2}
    assert {s.threads for s in candidates(Settings(intra_op_threads=2, instances=2), cores=4)} == {2}
    assert {s.batch for s in candidates(Settings(max_batch=4), cores=4)} == {4}
    assert candidates(Settings(instances=3, intra_op_threads=1, max_batch=16), cores=4) == [Shape(3, 1, 16)]


def test_the_quickest_shape_is_opened_and_remembered(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 130.0, (4, 1, 8): 120.0})
    with capture_logs() as lines:
        assert shape_of(shop.open(instances=4)) == (4, 1, 4)
    assert [engine.closed for engine in shop.opened] == [True, True, True, False]
    assert shop.measured() == [(4, 1, 1), (4, 1, 4), (4, 1, 8), (4, 1, 4)]
    (line,) = lines
    assert (line["event"], line["remembered"], line["shape"]) == ("shape_chosen", False, "4 x 1 threads, batch 4")
    assert line["images_per_second"]["4 x 1 threads, batch 8"] == 120.0
    assert shape_of(shop.open(instances=4)) == (4, 1, 4)
    assert shop.measured() == [(4, 1, 1), (4, 1, 4)]  # nothing was measured again


def test_batches_are_measured_of_the_quickest_division_only(tmp_path: Path) -> None:
    usual = (Settings().engine_instances, 1, 1)
    rates = {usual: 100.0, (2, 2, 1): 150.0, (1, 4, 1): 90.0, (4, 1, 1): 101.0, (2, 2, 4): 140.0, (2, 2, 8): 160.0}
    shop = Workshop(tmp_path, rates)
    assert shape_of(shop.open()) == (2, 2, 8)
    measured = shop.measured()[:-1]
    assert measured[0] == usual
    assert set(measured) == set(rates)


def test_the_usual_shape_stays_unless_another_is_clearly_quicker(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 109.0, (4, 1, 8): 103.0})
    assert shape_of(shop.open(instances=4)) == (4, 1, 1)
    assert not shop.opened[0].closed  # it is the one that serves


def test_the_usual_shape_is_measured_again_before_another_takes_its_place(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 130.0, (4, 1, 8): 120.0})
    steady, slow_at_first = shop._rate, iter([90.0])

    def rate(engine: Engine, manifest: Manifest) -> float:
        found = steady(engine, manifest)
        return next(slow_at_first, 125.0) if shape_of(engine) == (4, 1, 1) else found  # type: ignore[arg-type]

    shop._rate = rate  # type: ignore[method-assign]
    assert shape_of(shop.open(instances=4)) == (4, 1, 1)


def test_where_everything_is_set_nothing_is_measured(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(3, 1, 16): 100.0})
    shop.open(instances=3, intra_op_threads=1, max_batch=16)
    assert shop.time == 0


def test_what_runs_elsewhere_than_on_the_cpu_is_left_as_it_is(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(Settings().engine_instances, 1, 1): 100.0}, on_cpu=False)
    shop.open()
    assert shop.time == 0


def test_a_start_spends_no_more_than_it_may(tmp_path: Path) -> None:
    """What it had no time for counts as no quicker, and is not measured later either."""
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 130.0, (4, 1, 8): 900.0})
    assert shape_of(shop.open(instances=4, tune_s=1.2)) == (4, 1, 4)
    assert shop.measured() == [(4, 1, 1), (4, 1, 4), (4, 1, 4)]
    assert shape_of(shop.open(instances=4)) == (4, 1, 4)


def test_a_batch_that_would_take_longer_than_is_left_is_not_begun(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 4.0, (4, 1, 4): 8.0, (4, 1, 8): 16.0})  # a second per image
    assert shape_of(shop.open(instances=4, tune_s=13.5)) == (4, 1, 4)  # three runs of 4 take 12 s, of 8 24 s
    assert shop.time == 1.5  # two shapes, and the usual one once more


def test_the_time_of_a_start_is_that_of_all_its_models(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 130.0, (4, 1, 8): 120.0})
    opener = shop.opener(Settings(instances=4), tune_s=0.4)
    other = read_bundle(make_tiny_bundle(tmp_path / "others", name="other"))
    opener(shop.bundle)
    before = shop.time
    assert shape_of(opener(other)) == (4, 1, 1)  # type: ignore[arg-type]
    assert shop.time == before


def test_a_shape_that_cannot_be_used_is_left_out_unless_it_is_the_usual_one(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0})
    assert shape_of(shop.open(instances=4)) == (4, 1, 1)
    shop = Workshop(tmp_path / "other", {(4, 1, 4): 100.0})
    with pytest.raises(EngineError, match="this batch was not built"):
        shop.open(instances=4)


def test_while_others_keep_the_cores_busy_nothing_is_decided_or_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 130.0, (4, 1, 8): 120.0})
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.16)
    with capture_logs() as lines:
        assert shape_of(shop.open(instances=4)) == (4, 1, 1)
    assert [(line["event"], line["reason"]) for line in lines] == [("shape_not_chosen", "others took 16% of the cores")]
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.14)
    assert shape_of(shop.open(instances=4)) == (4, 1, 4)


def test_a_server_measures_at_its_first_start_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.0)
    make_tiny_bundle(tmp_path / "models")

    def remembered(**settings: Any) -> list[bool]:
        with capture_logs() as lines:
            Service.load(Settings(models=tmp_path / "models", tune_s=0.5, **settings))
        return [line["remembered"] for line in lines if line["event"] == "shape_chosen"]

    assert remembered(tune=False) == []
    assert remembered(tune=True) == [False]
    assert remembered(tune=True) == [True]
