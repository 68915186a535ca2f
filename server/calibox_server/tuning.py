"""How many runs side by side, how many threads in each, how large a batch: measured, where nobody said it.

Each candidate serves noise for a moment with an engine of its own, one after the other, and the quickest wins; what was
measured is kept in a small file, so that the next start need not measure again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.errors import CaliboxError
from calibox_core.manifest import Manifest
from calibox_server.choice_cache import ChoiceCache, default_cache
from calibox_server.engine import Closable, Engine
from calibox_server.engine_choice import EngineOpener, best, images_per_second
from calibox_server.models import OpenEngine
from calibox_server.options import available_cores
from calibox_server.settings import Settings

log = structlog.get_logger()

TRIED_BATCHES = (4, 8)  # beside one; what larger ones gain on CPUs is less than what they cost a lone request


@dataclass(frozen=True, slots=True)
class Shape:
    """How an engine is used."""

    instances: int
    threads: int  # of each instance
    batch: int

    def __str__(self) -> str:
        return f"{self.instances} x {self.threads} threads, batch {self.batch}"

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


@dataclass(frozen=True, slots=True)
class TunedOpener:
    """Opens engines in the shape that was quickest, or that the settings leave no choice about.

    Args:
        settings: of the server.
        cache: of what was measured; the user's where None.
        opener: makes what opens an engine under some settings.
        rate: images per second of an engine.
        cores: that the process may use.

    Raises:
        EngineError, BundleError: as `EngineOpener`, in the first shape.
    """

    settings: Settings
    cache: ChoiceCache | None = None
    opener: Callable[[Settings], OpenEngine] = EngineOpener
    rate: Callable[[Engine, Manifest], float] = images_per_second
    cores: int = 0  # available_cores() where 0

    def __call__(self, bundle: Bundle) -> Engine:
        """The engine of a bundle."""
        shapes = candidates(self.settings, self.cores or available_cores())
        names = list(map(str, shapes))
        cache = self.cache or default_cache()
        key = ("shape", bundle.manifest.files[MODEL_FILE], self.settings.engine, self.settings.precision)
        rates = cache.read(key, names)
        known = rates is not None
        if rates is None:
            rates = {str(shape): self._measured(bundle, shape, needed=shape is shapes[0]) for shape in shapes}
            cache.write(key, rates)
        chosen = best(rates, first=names[0])
        shown = {name: round(value, 1) for name, value in rates.items()}
        log.info("shape_chosen", model=bundle.manifest.name, shape=chosen, images_per_second=shown, remembered=known)
        return self.opener(shapes[names.index(chosen)].applied(self.settings))(bundle)

    def _measured(self, bundle: Bundle, shape: Shape, *, needed: bool) -> float:
        """Images per second; 0 of a shape that cannot be used, unless it is ``needed``."""
        try:
            engine = self.opener(shape.applied(self.settings))(bundle)
            try:
                return self.rate(engine, bundle.manifest)
            finally:
                if isinstance(engine, Closable):
                    engine.close()
        except CaliboxError as error:
            if needed:
                raise
            log.warning("shape_unusable", model=bundle.manifest.name, shape=str(shape), reason=str(error))
            return 0.0
