"""How an engine is used is measured where it is not set, once, and kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import EngineError
from calibox_core.manifest import Manifest
from calibox_server.choice_cache import ChoiceCache
from calibox_server.engine import Engine, EngineInput, EngineOutput
from calibox_server.models import OpenEngine
from calibox_server.settings import Settings
from calibox_server.tuning import Shape, TunedOpener, candidates
from tests.support.bundles import make_tiny_bundle


@dataclass
class Pretended:
    """An engine that only knows its shape."""

    instances: int
    threads: int
    max_batch: int
    closed: bool = False
    name: str = "pretended"

    @property
    def in_flight(self) -> int:
        return self.instances

    def run(self, batch: EngineInput) -> EngineOutput:
        raise AssertionError(f"rates are given, not measured: {len(batch.images)} images")

    def close(self) -> None:
        self.closed = True


class Workshop:
    """Opens pretended engines and says how quick they are."""

    def __init__(self, tmp_path: Path, rates: dict[tuple[int, int, int], float]) -> None:
        self.bundle = read_bundle(make_tiny_bundle(tmp_path / "models"))
        self.cache = ChoiceCache(tmp_path / "cache.json")
        self.rates = rates
        self.opened: list[Pretended] = []

    def open(self, **settings: Any) -> Pretended:
        engine = TunedOpener(Settings(**settings), self.cache, self._opener, self._rate, cores=4)(self.bundle)
        assert isinstance(engine, Pretended)
        return engine

    def _opener(self, settings: Settings) -> OpenEngine:
        def open_engine(_: Bundle) -> Engine:
            shape = (settings.engine_instances, settings.intra_op_threads, settings.max_batch or 1)
            if shape not in self.rates:
                raise EngineError("this batch was not built")
            self.opened.append(Pretended(*shape))
            return self.opened[-1]

        return open_engine

    def _rate(self, engine: Engine, manifest: Manifest) -> float:
        assert isinstance(engine, Pretended)
        return self.rates[engine.instances, engine.threads, engine.max_batch]


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
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 130.0, (2, 2, 1): 90.0})
    assert shape_of(shop.open(instances=4)) == (4, 1, 4)
    assert [engine.closed for engine in shop.opened] == [True, True, False]
    shop.opened.clear()
    assert shape_of(shop.open(instances=4)) == (4, 1, 4)
    assert len(shop.opened) == 1  # nothing was measured again


def test_the_usual_shape_stays_unless_another_is_clearly_quicker(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0, (4, 1, 4): 104.0, (4, 1, 8): 103.0})
    assert shape_of(shop.open(instances=4)) == (4, 1, 1)


def test_a_shape_that_cannot_be_used_is_left_out_unless_it_is_the_usual_one(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {(4, 1, 1): 100.0})
    assert shape_of(shop.open(instances=4)) == (4, 1, 1)
    shop = Workshop(tmp_path / "other", {(4, 1, 4): 100.0})
    with pytest.raises(EngineError, match="this batch was not built"):
        shop.open(instances=4)
