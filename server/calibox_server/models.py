"""The models that a server holds: every bundle of a folder, loaded or with the reason why it is not."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from calibox_core.bundle import Bundle, find_bundles, read_bundle
from calibox_core.errors import BundleError, CaliboxError
from calibox_core.manifest import Manifest
from calibox_server.engine import Engine, warm_up
from calibox_server.errors import ParameterError, UnknownModelError
from calibox_server.pipeline import Pipeline

log = structlog.get_logger()

OpenEngine = Callable[[Bundle], Engine]
MakePipeline = Callable[[Manifest, Engine], Pipeline]


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A bundle that could not be loaded."""

    name: str
    version: str
    reason: str


@dataclass(slots=True)
class Models:
    """What is served, by name and version, and what is not."""

    ready: dict[str, dict[str, Pipeline]] = field(default_factory=dict)
    broken: list[BrokenModel] = field(default_factory=list)

    def __iter__(self) -> Iterator[Pipeline]:
        """Every pipeline, by name, the highest version first."""
        for name in sorted(self.ready):
            yield from (self.ready[name][v] for v in sorted(self.ready[name], key=int, reverse=True))

    def default_version(self, name: str) -> str | None:
        """The version that requests get when they name none: the highest that loaded."""
        return max(self.ready.get(name, ()), key=int, default=None)

    def find(self, name: str | None, version: str | None) -> Pipeline:
        """The model that a request means.

        Raises:
            UnknownModelError: not served; the text says what is, or why it is not.
            ParameterError: no name, and several models are served.
        """
        if name is None:
            if len(self.ready) > 1:
                raise ParameterError(f"this server has several models; name one with `model`: {_listed(self.ready)}")
            name = next(iter(self.ready), "")
        versions = self.ready.get(name, {})
        wanted = version or self.default_version(name)
        if wanted in versions:
            return versions[wanted]
        for broken in self.broken:
            if broken.name == name and version in (None, broken.version):
                raise UnknownModelError(f"model {name}/{broken.version} could not be loaded: {broken.reason}")
        if versions:
            raise UnknownModelError(f"model {name} has no version {version!r:.20}; it has {_listed(versions)}")
        raise UnknownModelError(f"there is no model {name!r:.60}; served are {_listed(self.ready)}")


def load_models(folder: Path, open_engine: OpenEngine, make_pipeline: MakePipeline) -> Models:
    """Loads and warms up every bundle below ``folder``; one that fails never takes down another.

    Raises:
        BundleError: not one bundle could be loaded; the text has the reasons.
    """
    models = Models()
    for place in find_bundles(folder.resolve()):
        try:
            bundle = read_bundle(place)
            manifest = bundle.manifest
            if manifest.version in models.ready.get(manifest.name, {}):
                raise BundleError(f"another bundle in {folder} is {manifest.name}/{manifest.version} already")
            engine = open_engine(bundle)
            warm_up(engine, manifest)
        except Exception as error:  # whatever it is, the other models must come up
            reason = str(error) if isinstance(error, CaliboxError) else f"{type(error).__name__}: {error}"
            models.broken.append(BrokenModel(place.parent.name, place.name, reason))
            log.error("model_broken", folder=str(place), reason=reason)
        else:
            models.ready.setdefault(manifest.name, {})[manifest.version] = make_pipeline(manifest, engine)
            log.info("model_ready", model=manifest.name, version=manifest.version, engine=engine.name)
    if not models.ready:
        reasons = "; ".join(f"{b.name}/{b.version}: {b.reason}" for b in models.broken)
        raise BundleError(
            f"no bundle that can be served was found in {folder} (looked for <name>/<version>/manifest.json)"
            + (f": {reasons}" if reasons else "; name the folder with --models")
        )
    return models


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
