"""Whether a run that goes on alone is quicker with all cores: measured at start, where nobody said it, and kept."""

import statistics
import time
from collections.abc import Callable

import structlog

from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.errors import CaliboxError
from calibox_core.manifest import Manifest
from calibox_server.choice_cache import ChoiceCache
from calibox_server.engine import Engine, example_batch, runs_on_cpu
from calibox_server.engine_choice import Rates, best
from calibox_server.heap import trim
from calibox_server.lone import LoneEngine, runner_alone
from calibox_server.other_load import MOST, OtherLoad

log = structlog.get_logger()

MEASURED_SECONDS = 0.4  # of both ways, in turns
LEAST_TURNS = 3
# What it must be quicker by: it takes a second copy of the network, and more of the processor's time for each run.
CLEARLY_FASTER = 1.15


def run_rates(engine: Engine, manifest: Manifest) -> tuple[float, float]:
    """Runs per second of one image after the other: as always, and as `LoneEngine.run_alone` does it."""
    alone = runner_alone(engine)
    assert alone is not None
    batch = example_batch(manifest, 1)
    usual: list[float] = []
    by_all: list[float] = []
    start = time.monotonic()
    while len(usual) < LEAST_TURNS or time.monotonic() - start < MEASURED_SECONDS:
        for run, seconds in ((engine.run, usual), (alone, by_all)):
            began = time.monotonic()
            run(batch)
            seconds.append(time.monotonic() - began)
    return 1 / statistics.median(usual), 1 / statistics.median(by_all)


class LoneOpener:
    """Opens engines for runs that go on alone where that was measured to be quicker.

    Args:
        cache: of what was measured.
        cores: that the process may use.
        time_left: seconds that this start may still spend.
        rates: as `run_rates`.
    """

    def __init__(
        self,
        cache: ChoiceCache,
        cores: int,
        time_left: Callable[[], float],
        rates: Callable[[Engine, Manifest], tuple[float, float]] = run_rates,
    ) -> None:
        self._cache = cache
        self._cores = cores
        self._time_left = time_left
        self._rates = rates

    def __call__(self, bundle: Bundle, engine: Engine, threads: int) -> None:
        """Opens ``engine``, whose runs have ``threads`` threads each, where it can be and is quicker."""
        if not isinstance(engine, LoneEngine) or not runs_on_cpu(engine) or threads >= self._cores:
            return
        names = [f"{threads} threads", f"{self._cores} threads"]
        key = ("lone", bundle.manifest.files[MODEL_FILE], engine.name)
        known = self._cache.read(key, names)
        if self._time_left() <= 0 if known is None else not _is_quicker(known, names):
            return
        try:
            engine.open_lone(self._cores)
        except CaliboxError as error:
            log.warning("lone_run_unusable", model=bundle.manifest.name, threads=self._cores, reason=str(error))
            return
        if known is None and not self._shows_quicker(bundle, engine, names, key):
            engine.close_lone()
            trim()

    def _shows_quicker(self, bundle: Bundle, engine: Engine, names: list[str], key: tuple[str, ...]) -> bool:
        others = OtherLoad()
        rates = dict(zip(names, self._rates(engine, bundle.manifest), strict=True))
        if (taken := others.share()) > MOST:
            log.info("lone_run_not_chosen", model=bundle.manifest.name, reason=f"others took {taken:.0%} of the cores")
            return False
        self._cache.write(key, rates)
        quicker = _is_quicker(rates, names)
        shown = {name: round(1e3 / rate, 2) for name, rate in rates.items()}
        log.info("lone_run_chosen", model=bundle.manifest.name, run=names[quicker], milliseconds=shown)
        return quicker


def _is_quicker(rates: Rates, names: list[str]) -> bool:
    return best(rates, first=names[0], clearly=CLEARLY_FASTER) != names[0]
