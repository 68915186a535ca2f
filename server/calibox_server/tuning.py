"""How many runs side by side, how many threads in each, how large a batch: measured at start, where nobody said it.

Each candidate serves noise for a moment with an engine of its own, one after the other, and the quickest wins; what was
measured is kept in a small file, so that the next start need not measure again. A start spends a few seconds on it, all
models together: what it has no time for stays as it would be without, and so does what is loaded later, because nobody
is to be measured, or slowed down, beside requests. Nor is anything decided while others keep the cores busy.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.engines import BuiltEngine
from calibox_core.errors import CaliboxError
from calibox_core.manifest import Manifest
from calibox_server.choice_cache import ChoiceCache, default_cache
from calibox_server.engine import Closable, Engine, runs_on_cpu
from calibox_server.engine_choice import Choice, EngineOpener, best, images_per_second
from calibox_server.heap import trim
from calibox_server.lone_choice import LoneOpener
from calibox_server.options import available_cores
from calibox_server.other_load import MOST, OtherLoad
from calibox_server.settings import Settings

log = structlog.get_logger()

TRIED_BATCHES = (4, 8)  # beside one; what larger ones gain on CPUs is less than what they cost a lone request
MEASURED_SECONDS = 0.4  # per candidate; a detector of 50 ms on two cores runs 16 times
# A candidate must beat the usual one by this much: on a machine that does other things too, such a short measurement of
# the same thing differs by a few percent from the next.
CLEARLY_FASTER = 1.1


images_per_second_shortly = partial(images_per_second, seconds=MEASURED_SECONDS)


@dataclass(frozen=True, slots=True)
class Shape:
    """How an engine is used."""

    instances: int
    threads: int  # of each instance
    batch: int

    def __str__(self) -> str:
        return f"{self.instances} x {self.threads} threads, batch {self.batch}"

    @property
    def division(self) -> tuple[int, int]:
        """How the cores are divided."""
        return self.instances, self.threads

    def applied(self, settings: Settings) -> Settings:
        """The settings with this shape."""
        asked = {"instances": self.instances, "intra_op_threads": self.threads, "max_batch": self.batch}
        return settings.model_copy(update=asked)


def candidates(settings: Settings, cores: int) -> list[Shape]:
    """Shapes that use every core, the one that is taken without measuring first; what was set is kept."""
    threads = [n for n in range(1, cores + 1) if cores % n == 0]
    shapes = [Shape(cores // n, n, batch) for batch in (1, *TRIED_BATCHES) for n in threads]
    given = settings.model_fields_set
    first = Shape(settings.engine_instances, settings.intra_op_threads, settings.max_batch or 1)
    fits = [
        shape
        for shape in shapes
        if settings.instances in (None, shape.instances)
        and ("intra_op_threads" not in given or shape.threads == settings.intra_op_threads)
        and settings.max_batch in (None, shape.batch)
    ]
    return list(dict.fromkeys([first, *fits]))


class Chooser(Protocol):
    """As `EngineOpener`, which is one."""

    def choose(self, bundle: Bundle) -> Choice:
        """As `EngineOpener.choose`."""

    def open(self, bundle: Bundle, built: BuiltEngine | None) -> Engine:
        """As `EngineOpener.open`."""


class Budget:
    """The time that a start may spend, from the first measurement on.

    Args:
        seconds: of it.
        clock: seconds, monotonic.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end: float | None = None

    def left(self) -> float:
        """Seconds, below 0 where it is over."""
        if self._end is None:
            self._end = self._clock() + self._seconds
        return self._end - self._clock()


class TunedOpener:
    """Opens engines on the CPU in the shape that was quickest, or that the settings leave no choice about.

    Which engine of a bundle it is was decided before, as `EngineOpener` does.

    Args:
        settings: of the server.
        cache: of what was measured; the user's where None.
        opener: makes what opens engines under some settings.
        rate: images per second of an engine.
        cores: that the process may use; 0 asks the system.
        budget: of this start; as the settings say where None.

    Raises:
        EngineError, BundleError: as `EngineOpener`.
    """

    def __init__(
        self,
        settings: Settings,
        cache: ChoiceCache | None = None,
        opener: Callable[[Settings], Chooser] = EngineOpener,
        rate: Callable[[Engine, Manifest], float] = images_per_second_shortly,
        cores: int = 0,
        budget: Budget | None = None,
    ) -> None:
        self._settings = settings
        self._cache = cache or default_cache()
        self._opener = opener
        self._rate = rate
        self._shapes = candidates(settings, cores or available_cores())
        self._budget = budget or Budget(settings.tune_s)
        self._open_lone = LoneOpener(self._cache, cores or available_cores(), self._budget.left)

    def __call__(self, bundle: Bundle) -> Engine:
        """The engine of a bundle."""
        engine, shape = self._shaped(bundle)
        if self._settings.lone_threads is None:
            self._open_lone(bundle, engine, shape.threads)
        return engine

    def _shaped(self, bundle: Bundle) -> tuple[Engine, Shape]:
        usual, built = self._opener(self._settings).choose(bundle)
        if len(self._shapes) == 1 or not runs_on_cpu(usual):
            return usual, self._shapes[0]
        names = list(map(str, self._shapes))
        key = ("shape", bundle.manifest.files[MODEL_FILE], usual.name)
        known = self._cache.read(key, names)
        if known is None and self._budget.left() <= 0:
            return usual, self._shapes[0]
        start, others = time.monotonic(), OtherLoad()
        rates = known or {**dict.fromkeys(names, 0.0), **self._measured(bundle, built, usual)}
        if known is None:
            trim()  # of what the others left, nothing should count as this model's
            if (taken := others.share()) > MOST:
                log.info("shape_not_chosen", model=bundle.manifest.name, reason=f"others took {taken:.0%} of the cores")
                return usual, self._shapes[0]
            self._cache.write(key, rates)
        chosen = best(rates, first=names[0], clearly=CLEARLY_FASTER)
        log.info(
            "shape_chosen",
            model=bundle.manifest.name,
            shape=chosen,
            images_per_second={name: round(value, 1) for name, value in rates.items() if value},
            remembered=known is not None,
            seconds=round(time.monotonic() - start, 1),
        )
        if chosen == names[0]:
            return usual, self._shapes[0]
        _close(usual)
        shape = self._shapes[names.index(chosen)]
        return self._open(shape, bundle, built), shape

    def _measured(self, bundle: Bundle, built: BuiltEngine | None, usual: Engine) -> dict[str, float]:
        """Images per second of the usual shape, of the others with its batch, and of other batches of the quickest."""
        first = self._shapes[0]
        found = {first: self._rate(usual, bundle.manifest)}
        for shape in self._shapes:
            if shape.batch == first.batch and shape != first:
                found[shape] = self._measure(bundle, built, shape, found[first])
        quickest = max(found, key=lambda shape: found[shape])
        for shape in self._shapes:
            if shape.batch != first.batch and shape.division == quickest.division:
                found[shape] = self._measure(bundle, built, shape, found[quickest])
        if max(found.values()) > CLEARLY_FASTER * found[first] and self._budget.left() > 0:
            # Once more: what else the machine did while the usual one was measured should not decide for long.
            found[first] = max(found[first], self._rate(usual, bundle.manifest))
        return {str(shape): rate for shape, rate in found.items()}

    def _measure(self, bundle: Bundle, built: BuiltEngine | None, shape: Shape, rate: float) -> float:
        """Images per second; 0 of a shape that cannot be used, or that there is no time for if it is like ``rate``."""
        run_s = shape.instances * shape.batch / rate
        if self._budget.left() < 3 * run_s:  # two to warm up, one to measure
            return 0.0
        try:
            engine = self._open(shape, bundle, built)
            try:
                return self._rate(engine, bundle.manifest)
            finally:
                _close(engine)
        except CaliboxError as error:
            log.warning("shape_unusable", model=bundle.manifest.name, shape=str(shape), reason=str(error))
            return 0.0

    def _open(self, shape: Shape, bundle: Bundle, built: BuiltEngine | None) -> Engine:
        return self._opener(shape.applied(self._settings)).open(bundle, built)


def _close(engine: Engine) -> None:
    if isinstance(engine, Closable):
        engine.close()
