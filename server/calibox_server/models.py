"""The models that a server holds, by name and version; and how one bundle is opened."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.errors import CaliboxError
from calibox_core.manifest import Manifest
from calibox_server.engine import Closable, Engine, warm_up
from calibox_server.errors import ParameterError, UnknownModelError
from calibox_server.pipeline import Pipeline

OpenEngine = Callable[[Bundle], Engine]
MakePipeline = Callable[[Manifest, Engine], Pipeline]


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A bundle that could not be loaded."""

    name: str
    version: str
    reason: str


def _nobody() -> None:
    """Where nobody wants to know."""


@dataclass(slots=True)
class Models:
    """What is served and what is not. Read and changed on the event loop alone."""

    ready: dict[str, dict[str, Pipeline]] = field(default_factory=dict, init=False)
    broken: list[BrokenModel] = field(default_factory=list)
    on_change: Callable[[], None] = field(default=_nobody)  # called after every change of these
    _in_order: list[Pipeline] = field(default_factory=list, init=False)  # every request looks at them

    def __iter__(self) -> Iterator[Pipeline]:
        """Every pipeline, by name, the highest version first."""
        return iter(self._in_order)

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
        if not self.ready:
            raise UnknownModelError("no model is loaded; ask again when one is")
        raise UnknownModelError(f"there is no model {name!r:.60}; served are {_listed(self.ready)}")

    def put(self, pipeline: Pipeline) -> Pipeline | None:
        """Serves ``pipeline`` from now on. Returns the one whose place it takes, which nobody finds any more."""
        manifest = pipeline.manifest
        versions = self.ready.setdefault(manifest.name, {})
        old = versions.get(manifest.version)
        versions[manifest.version] = pipeline
        self.forgive(manifest.name, manifest.version)
        self._changed()
        return old

    def drop(self, name: str, version: str) -> Pipeline:
        """Serves a version no more; a name without versions is gone."""
        pipeline = self.ready[name].pop(version)
        if not self.ready[name]:
            del self.ready[name]
        self._changed()
        return pipeline

    def _changed(self) -> None:
        self._in_order = [
            self.ready[name][version]
            for name in sorted(self.ready)
            for version in sorted(self.ready[name], key=int, reverse=True)
        ]
        self.on_change()

    def blame(self, broken: BrokenModel) -> None:
        """Notes why a version is not served."""
        self.forgive(broken.name, broken.version)
        self.broken.append(broken)
        self.on_change()

    def forgive(self, name: str, version: str) -> None:
        """Forgets that a version was broken."""
        self.broken[:] = [b for b in self.broken if (b.name, b.version) != (name, version)]


def open_bundle(folder: Path, open_engine: OpenEngine) -> tuple[Manifest, Engine]:
    """Checks a bundle, opens an engine for it and warms it up; blocks, and belongs into a thread.

    Raises:
        Exception: whatever is wrong with the bundle, of whatever type the runtime likes.
    """
    bundle = read_bundle(folder)
    engine = open_engine(bundle)
    try:
        warm_up(engine, bundle.manifest)
    except BaseException:
        if isinstance(engine, Closable):
            engine.close()
        raise
    return bundle.manifest, engine


def reason_of(error: Exception) -> str:
    """One sentence for whoever looks after the models."""
    return str(error) if isinstance(error, CaliboxError) else f"{type(error).__name__}: {error}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
