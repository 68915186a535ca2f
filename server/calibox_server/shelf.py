"""Which versions are to be served, and what has to be opened for it: the repository's decisions, apart from waiting.

What has to be opened is yielded and sent back, so that the same steps serve a start that blocks and a change beside
requests.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from calibox_core.manifest import Manifest
from calibox_server.engine import Engine
from calibox_server.errors import UnknownModelError
from calibox_server.model_folder import Place
from calibox_server.models import BrokenModel, MakePipeline, Models, reason_of
from calibox_server.pipeline import Pipeline
from calibox_server.versions import VersionPolicy, number

log = structlog.get_logger()

Key = tuple[str, str]  # name and version
Opened = tuple[Manifest, Engine] | Exception


@dataclass(slots=True)
class Change:
    """What one operation did."""

    loaded: list[Key] = field(default_factory=list)
    unloaded: list[Key] = field(default_factory=list)
    failed: list[BrokenModel] = field(default_factory=list)
    retired: list[Pipeline] = field(default_factory=list)  # served until now; they drain


@dataclass(frozen=True, slots=True)
class Order:
    """What an operation is about.

    Args:
        name, version: of the only model, or version of it, in question; None for all.
        again: load also what is loaded already and has not changed.
        retry: try also what failed before and has not changed.
    """

    name: str | None = None
    version: str | None = None
    again: bool = False
    retry: bool = False


class Shelf:
    """Keeps ``models`` as the folder, the policy and the operator want it. Belongs onto the event loop.

    Args:
        policy: which versions are served, where nobody said otherwise.
        make_pipeline: serves an opened bundle.
    """

    def __init__(self, policy: VersionPolicy, make_pipeline: MakePipeline) -> None:
        self.models = Models()
        self._policy = policy
        self._make_pipeline = make_pipeline
        self._acted: dict[Key, Place] = {}  # what each version was when it was loaded, failed or was left alone
        self._asked: dict[tuple[str, str | None], bool] = {}  # the operator's word, which goes before the policy
        self._kept: dict[Key, str] = {}  # of versions that serve on: why they could not be loaded again

    def allow(self, name: str, version: str | None, places: Sequence[Place]) -> None:
        """The operator wants a model as the policy says, or one version of it whatever the policy says.

        Raises:
            UnknownModelError: it is not among ``places``.
        """
        names = sorted({place.name for place in places})
        versions = [place.version for place in places if place.name == name]
        if not versions:
            raise UnknownModelError(f"the folder has no model {name!r:.60}; it has {', '.join(names) or 'none'}")
        if version is not None and version not in versions:
            raise UnknownModelError(f"the folder has no {name}/{version:.20}; it has {', '.join(sorted(versions))}")
        self._forget(name, version)
        if version is not None:
            self._asked[name, version] = True

    def forbid(self, name: str, version: str | None) -> None:
        """The operator does not want a model, or one version of it.

        Raises:
            UnknownModelError: it is not served.
        """
        self.models.find(name, version)
        self._forget(name, version)
        self._asked[name, version] = False

    def index(self) -> list[dict[str, str]]:
        """Every version that is served, broken or lies unloaded in the folder: name, version, state and reason."""
        idle = ("UNAVAILABLE", "unloaded, or not among the versions to serve")
        rows: dict[Key, tuple[str, str]] = dict.fromkeys(self._acted, idle)
        rows |= {(b.name, b.version): ("UNAVAILABLE", b.reason) for b in self.models.broken}
        ready = [(p.manifest.name, p.manifest.version) for p in self.models]
        rows |= {key: ("READY", self._kept.get(key, "")) for key in ready}
        ordered = sorted(rows.items(), key=lambda row: (row[0][0], row[0][1].zfill(9)))
        return [{"name": n, "version": v, "state": state, "reason": why} for (n, v), (state, why) in ordered]

    def differs(self, places: Iterable[Place]) -> bool:
        """Whether anything changed since it was acted upon."""
        return {p.key: p for versions in _by_name(places).values() for p in versions.values()} != self._acted

    def steps(self, places: Iterable[Place], order: Order, change: Change) -> Generator[Place, Opened, None]:
        """Yields each bundle that is to be opened, is sent what came of it, and puts it in its place."""
        found = _by_name(places)
        known = {*found, *self.models.ready, *(name for name, _ in self._acted)}
        for name in sorted(known if order.name is None else {order.name}):
            versions = found.get(name, {})
            wanted = yield from self._steps_of(name, versions, order, change)
            for version in sorted(set(self.models.ready.get(name, ())) - wanted, key=number):
                change.retired.append(self.models.drop(name, version))
                change.unloaded.append((name, version))
                self._kept.pop((name, version), None)
                log.info("model_unloaded", model=name, version=version)
            self._forget_gone(name, versions)

    def _steps_of(
        self, name: str, found: dict[str, Place], order: Order, change: Change
    ) -> Generator[Place, Opened, set[str]]:
        """One model's bundles. Returns the versions that are to be served."""
        asked = {v: self._asked.get((name, v), self._asked.get((name, None))) for v in found}
        serving = set(self.models.ready.get(name, ())) - {order.version} if order.version is not None else set()
        first = [v for v in found if asked[v] and order.version in (None, v)]
        by_policy = [v for v in self._policy.candidates(found) if asked[v] is None] if order.version is None else []
        most = self._policy.most
        for version in [*first, *by_policy]:
            full = version in by_policy and most is not None and len(serving.intersection(by_policy)) >= most
            if not full and (yield from self._bring_up(found[version], order, change)):
                serving.add(version)
        for version in set(found) - serving:
            self._acted[name, version] = found[version]
        return serving

    def _bring_up(self, place: Place, order: Order, change: Change) -> Generator[Place, Opened, bool]:
        """Loads a bundle if it has to be. Returns whether its version is served now."""
        serves = place.version in self.models.ready.get(place.name, ())
        same = self._acted.get(place.key) == place
        broken = any((b.name, b.version) == place.key for b in self.models.broken) or place.key in self._kept
        if same and not order.again and (serves or broken) and not (broken and order.retry):
            return serves
        opened = yield place
        self._acted[place.key] = place
        if isinstance(opened, Exception):
            self._fail(place, reason_of(opened), change)
            return place.version in self.models.ready.get(place.name, ())
        manifest, engine = opened
        old = self.models.put(self._make_pipeline(manifest, engine))
        change.retired.extend([old] if old is not None else [])
        change.loaded.append(place.key)
        self._kept.pop(place.key, None)
        log.info("model_ready", model=manifest.name, version=manifest.version, engine=engine.name)
        return True

    def _fail(self, place: Place, reason: str, change: Change) -> None:
        broken = BrokenModel(*place.key, reason)
        change.failed.append(broken)
        log.error("model_broken", folder=str(place.folder), reason=reason)
        if place.version in self.models.ready.get(place.name, ()):
            self._kept[place.key] = f"serves as it was loaded before; the bundle in the folder is broken: {reason}"
            self.models.on_change()
        else:
            self.models.blame(broken)

    def _forget_gone(self, name: str, found: dict[str, Place]) -> None:
        for key in [key for key in self._acted if key[0] == name and key[1] not in found]:
            del self._acted[key]
            self.models.forgive(*key)

    def _forget(self, name: str, version: str | None) -> None:
        """Takes back what the operator said about a model, or about one version."""
        for key in [key for key in self._asked if key[0] == name and version in (None, key[1])]:
            del self._asked[key]


def _by_name(places: Iterable[Place]) -> dict[str, dict[str, Place]]:
    """By name and version; of two that claim the same, the first."""
    found: dict[str, dict[str, Place]] = {}
    for place in places:
        found.setdefault(place.name, {}).setdefault(place.version, place)
    return found
