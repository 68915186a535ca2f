"""Which engine serves a bundle: the one that was asked for, or the fastest that works here.

`auto` runs every engine at hand for a moment, as many runs side by side as the server would, and keeps what it measured
in a small file, so that the next start need not measure again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.engines import BuiltEngine, EngineError, find_engines, read_engine
from calibox_core.manifest import Manifest
from calibox_server.choice_cache import ChoiceCache, default_cache
from calibox_server.engine import Closable, Engine, example_batch, warm_up
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.openvino_engine import OpenVinoEngine
from calibox_server.other_load import MOST, OtherLoad
from calibox_server.settings import Settings
from calibox_server.tensorrt.engine import open_tensorrt

log = structlog.get_logger()

MEASURED_SECONDS = 1.0  # per engine; a detector of 100 ms runs ten times or more
# A built engine must beat the ONNX file by this much: the measurement is short, and that file is what was exported.
CLEARLY_FASTER = 1.05

Choice = tuple[Engine, BuiltEngine | None]  # an engine, and which of a bundle's it is; None is the ONNX file
Rates = Mapping[str, float]  # images per second by the name of an engine


@dataclass(frozen=True, slots=True)
class EngineOpener:
    """Opens engines for bundles as the settings ask.

    Raises:
        EngineError: an engine that was asked for by name cannot be used, and `engine_fallback` is off.
        BundleError: the ONNX file itself cannot be used.
    """

    settings: Settings
    cache: ChoiceCache | None = None  # of `auto`'s measurements; the user's where None

    def __call__(self, bundle: Bundle) -> Engine:
        """The engine of the settings."""
        return self.choose(bundle)[0]

    def open(self, bundle: Bundle, built: BuiltEngine | None) -> Engine:
        """One engine of a bundle, whatever the settings say of engines; None is its ONNX file."""
        return self._onnxruntime(bundle) if built is None else self._built(bundle, built)

    def choose(self, bundle: Bundle) -> Choice:
        """The engine of the settings, and which of the bundle's it is: None is its ONNX file."""
        plain = self.settings.precision in ("auto", bundle.manifest.precision)
        if self.settings.engine == "onnxruntime" and plain:
            return self._onnxruntime(bundle), None
        if self.settings.engine == "auto":
            return self._fastest(bundle)
        try:
            return self._asked_for(bundle)
        except EngineError as error:
            if not self.settings.engine_fallback:
                raise
            log.warning("engine_fallback", model=bundle.manifest.name, engine="onnxruntime", reason=str(error))
            return self._onnxruntime(bundle), None

    def _onnxruntime(self, bundle: Bundle, built: BuiltEngine | None = None) -> Engine:
        """The ONNX file, or a built one; on the CPU where the provider cannot be used and a fallback is allowed."""
        asked = self.settings
        make = partial(
            OnnxRuntimeEngine,
            bundle,
            built=built,
            instances=asked.engine_instances,
            intra_op_threads=asked.intra_op_threads,
            lone_threads=asked.lone_threads or 0,
            max_batch=asked.max_batch,
        )
        try:
            return make(provider=asked.onnxruntime_provider)
        except EngineError as error:
            if not asked.engine_fallback or built is not None:
                raise
            log.warning("engine_fallback", model=bundle.manifest.name, engine="onnxruntime (CPU)", reason=str(error))
            return make(provider="cpu")

    def _built(self, bundle: Bundle, built: BuiltEngine) -> Engine:
        asked = self.settings
        if built.record.runtime == "onnxruntime":
            return self._onnxruntime(bundle, built)
        if built.record.runtime == "openvino":
            return OpenVinoEngine(
                built,
                instances=asked.engine_instances,
                intra_op_threads=asked.intra_op_threads,
                max_batch=asked.max_batch,
            )
        return open_tensorrt(
            built,
            bundle.manifest,
            instances=asked.instances or 1,  # on a GPU, cores say nothing
            max_batch=asked.max_batch,
            cuda_driver=asked.cuda_driver,
        )

    def _asked_for(self, bundle: Bundle) -> Choice:
        """The engine of the runtime and precision that were named; the fastest where several are meant."""
        wanted = self.settings.engine
        found = [built for built in self._records(bundle, strict=True) if built.record.runtime == wanted]
        if not found:
            raise EngineError(
                f"{bundle.folder} has no engine for {wanted} in precision {self.settings.precision}: build one with "
                f"`calibox build {bundle.folder} --engine {wanted}`"
            )
        engines: list[Choice] = [(self._built(bundle, built), built) for built in found]
        return engines[0] if len(engines) == 1 else self._choose(bundle, engines)

    def _fastest(self, bundle: Bundle) -> Choice:
        engines: list[Choice] = [(self._onnxruntime(bundle), None)]
        for built in self._records(bundle, strict=False):
            try:
                engines.append((self._built(bundle, built), built))
            except EngineError as error:
                log.warning("engine_unusable", model=bundle.manifest.name, engine=built.title, reason=str(error))
        return engines[0] if len(engines) == 1 else self._choose(bundle, engines)

    def _records(self, bundle: Bundle, *, strict: bool) -> Iterator[BuiltEngine]:
        for folder in find_engines(bundle):
            if self.settings.precision not in ("auto", folder.name):
                continue
            try:
                yield read_engine(bundle, folder)
            except EngineError as error:
                if strict:
                    raise
                log.warning("engine_unusable", model=bundle.manifest.name, engine=str(folder), reason=str(error))

    def _choose(self, bundle: Bundle, engines: Sequence[Choice]) -> Choice:
        cache = self.cache or default_cache()
        asked = self.settings
        key = (bundle.manifest.files[MODEL_FILE], asked.engine_instances, asked.intra_op_threads, asked.max_batch)
        names = [engine.name for engine, _ in engines]
        rates = cache.read(key, names)
        known = rates is not None
        if rates is None:
            others = OtherLoad()
            rates = {engine.name: images_per_second(engine, bundle.manifest) for engine, _ in engines}
            if others.share() <= MOST:  # else it is measured again at the next start
                cache.write(key, rates)
        chosen = best(rates, first=names[0])
        shown = {name: round(rate, 1) for name, rate in rates.items()}
        log.info("engine_chosen", model=bundle.manifest.name, engine=chosen, images_per_second=shown, remembered=known)
        for engine, _ in engines:
            if engine.name != chosen and isinstance(engine, Closable):
                engine.close()
        return engines[names.index(chosen)]


def best(rates: Rates, *, first: str, clearly: float = CLEARLY_FASTER) -> str:
    """The name of the fastest; ``first`` unless another is ``clearly`` times as fast."""
    fastest = max(rates, key=lambda name: rates[name])
    return fastest if rates[fastest] > clearly * rates[first] else first


def images_per_second(
    engine: Engine,
    manifest: Manifest,
    *,
    seconds: float = MEASURED_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Of as many runs side by side as the engine takes, each of its largest batch."""
    warm_up(engine, manifest)
    batch = example_batch(manifest, engine.max_batch)
    start = clock()

    def work(_: int) -> int:
        images = 0
        while not images or clock() - start < seconds:
            engine.run(batch)
            images += engine.max_batch
        return images

    with ThreadPoolExecutor(engine.in_flight) as pool:
        images = sum(pool.map(work, range(engine.in_flight)))
    return images / (clock() - start)
