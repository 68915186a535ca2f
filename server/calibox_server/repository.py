"""The models of a folder while the server runs: loaded, reloaded, unloaded, without losing a request.

A new version is opened and warmed up in a thread beside the one that serves, then takes over in one step on the event
loop, and only then does the old one drain and close its engine. Changes happen one at a time: two loads at once would
disturb each other's measurements, and no more than one model has two copies in memory.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from pathlib import Path

import structlog

from calibox_core.errors import BundleError
from calibox_server.background import in_background
from calibox_server.errors import LoadError, StoppingError
from calibox_server.heap import trim
from calibox_server.model_folder import Place, look
from calibox_server.models import MakePipeline, OpenEngine, open_bundle, reason_of
from calibox_server.options import MAX_TIMEOUT_MS
from calibox_server.shelf import Change, Opened, Order, Shelf
from calibox_server.versions import VersionPolicy

log = structlog.get_logger()

# Nothing that was admitted waits longer than its own deadline; the rest is for the batch that the engine holds then.
DRAIN_SECONDS = MAX_TIMEOUT_MS / 1e3 + 60


class Repository:
    """Keeps ``models`` as the folder and the operator want it. Every method belongs onto the event loop, but `start`.

    Args:
        folder: of the bundles.
        policy: which versions are served, where nobody said otherwise.
        open_engine: makes an engine of a bundle; called in a thread.
        make_pipeline: serves it; called on the event loop.
    """

    def __init__(
        self, folder: Path, policy: VersionPolicy, open_engine: OpenEngine, make_pipeline: MakePipeline
    ) -> None:
        self._shelf = Shelf(policy, make_pipeline)
        self.models = self._shelf.models
        self.folder = folder.resolve()
        self._open_engine = open_engine
        self._seen: list[Place] = []
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Change]] = set()
        self._closing = False

    def start(self) -> None:
        """Loads what the policy says; blocks.

        Raises:
            BundleError: not one bundle could be loaded; the text has the reasons.
        """
        steps = self._shelf.steps(look(self.folder), Order(retry=True), Change())
        try:
            place = next(steps)
            while True:
                place = steps.send(self._open(place))
        except StopIteration:
            pass
        if not self.models.ready:
            reasons = "; ".join(f"{b.name}/{b.version}: {b.reason}" for b in self.models.broken)
            raise BundleError(
                f"no bundle that can be served was found in {self.folder} (looked for <name>/<version>/manifest.json)"
                + (f": {reasons}" if reasons else "; name the folder with --models")
            )

    async def load(self, name: str, version: str | None = None, *, again: bool = False) -> Change:
        """Loads what the folder has of a model and is not loaded, or was changed since; with ``again`` all of it.

        Args:
            name: of the model.
            version: this one, whatever the policy says; without it the policy decides.
            again: also what is loaded already.

        Returns: when what is no longer served was drained and closed.

        Raises:
            UnknownModelError: the folder has no such model or version.
            LoadError: a version could not be loaded. What was served before is served still.
        """
        change = await self._change(
            Order(name, version, again=again, retry=True), partial(self._shelf.allow, name, version)
        )
        if change.failed:
            told = "; ".join(f"{b.name}/{b.version}: {b.reason}" for b in change.failed)
            raise LoadError(f"{told}; what was served before is served still")
        return change

    async def unload(self, name: str, version: str | None = None) -> Change:
        """Serves a model, or one version, no more, until it is asked for by `load`.

        Returns: when its requests were answered and its engine is closed.

        Raises:
            UnknownModelError: it is not loaded.
        """
        return await self._change(Order(name, version), lambda _: self._shelf.forbid(name, version))

    async def sync(self) -> Change:
        """Loads what is new or changed in the folder, and unloads what is gone."""
        return await self._change(Order(), lambda _: None)

    async def watch(self, seconds: float) -> None:
        """Syncs whenever the folder has changed and then looked the same twice, so that copies are whole; forever."""
        while True:
            await asyncio.sleep(seconds)
            before = self._seen
            try:
                self._seen = await in_background(partial(look, self.folder))
                if not self._seen and self.models.ready:
                    log.warning("models_out_of_reach", folder=str(self.folder))
                elif self._seen == before and self._shelf.differs(before):
                    await self.sync()
            except StoppingError:
                return
            except Exception as error:  # a folder out of reach must not end the watch
                log.error("watch_failed", folder=str(self.folder), reason=reason_of(error))

    def index(self) -> list[dict[str, str]]:
        """Every version that is served, broken or lies unloaded in the folder: name, version, state and reason."""
        return self._shelf.index()

    async def close(self, timeout: float) -> None:
        """Takes no more orders, drains every model for at most ``timeout`` seconds and closes it."""
        self._closing = True
        await asyncio.gather(*(pipeline.close(timeout) for pipeline in self.models))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def _change(self, order: Order, prepare: Callable[[list[Place]], None]) -> Change:
        """One operation, which goes on to its end even if its caller leaves."""
        if self._closing:
            raise StoppingError("the server is stopping; its models stay as they are")
        task = asyncio.create_task(self._in_turn(order, prepare))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, order: Order, prepare: Callable[[list[Place]], None]) -> Change:
        async with self._changing:
            places = await in_background(partial(look, self.folder))
            prepare(places)
            change = Change()
            try:
                await _drive(self._shelf.steps(places, order, change), self._open_beside)
            finally:
                await asyncio.gather(*(pipeline.close(DRAIN_SECONDS) for pipeline in change.retired))
                change.retired.clear()
                await in_background(trim)
            return change

    async def _open_beside(self, place: Place) -> Opened:
        opened = await in_background(partial(self._open, place))
        return StoppingError("the server stopped before the model was loaded") if self._closing else opened

    def _open(self, place: Place) -> Opened:
        try:
            if place.twin:
                raise BundleError(f"another bundle in {self.folder} is {place.twin} already")
            manifest, engine = open_bundle(place.folder, self._open_engine)
            if (manifest.name, manifest.version) != place.key:
                raise BundleError(f"{place.folder} was changed while it was read; load it again")
            return manifest, engine
        except Exception as error:  # whatever it is, the other models must go on
            return error


async def _drive(steps: Generator[Place, Opened, None], open_one: Callable[[Place], Awaitable[Opened]]) -> None:
    """Runs the steps of a change with what is opened elsewhere."""
    try:
        place = next(steps)
        while True:
            place = steps.send(await open_one(place))
    except StopIteration:
        return
