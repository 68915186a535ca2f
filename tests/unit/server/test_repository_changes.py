"""Models that come, change and go while the server runs, without HTTP."""

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_server.engine import Engine
from calibox_server.errors import LoadError, StoppingError, UnknownModelError
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.repository import Repository
from calibox_server.requests import DetectRequest, ImagePart
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S, GatedEngine
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(width=200, height=120), "JPEG", quality=95)


def served(repository: Repository) -> list[str]:
    return [f"{p.manifest.name}/{p.manifest.version}" for p in repository.models]


def index(repository: Repository) -> dict[str, tuple[str, str]]:
    return {f"{row['name']}/{row['version']}": (row["state"], row["reason"]) for row in repository.index()}


def replace(folder: Path, *, seed: int) -> None:
    """Another network of the same name and version."""
    shutil.rmtree(folder)
    make_tiny_bundle(folder.parent.parent, name=folder.parent.name, version=folder.name, seed=seed)


async def answer(service: Service, **given: str) -> bytes:
    asked = DetectRequest([ImagePart(JPEG, "the image")], {name: [value] for name, value in given.items()})
    body = (await service.answer(asked, 0.0)).body
    return body[: body.index(b'"timing"')]


def run(
    folder: Path,
    scenario: Callable[[Service], Coroutine[Any, Any, None]],
    *,
    open_engine: Callable[[Bundle], Engine] | None = None,
    **settings: Any,
) -> None:
    """Loads the folder, plays the scenario, and closes what is loaded then."""
    service = Service.load(Settings(models=folder, instances=1, decode_threads=1, **settings), open_engine)

    async def play() -> None:
        service.begin()
        await asyncio.wait_for(scenario(service), PATIENCE_S)
        await service.close()

    asyncio.run(play())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def test_a_new_version_is_loaded_and_an_unloaded_one_is_gone_until_it_is_asked_for(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository = service.repository
        make_tiny_bundle(tmp_path, version="2", seed=1)
        assert served(repository) == ["tiny/1"]
        first = await answer(service)
        change = await repository.load("tiny")
        assert (change.loaded, change.unloaded, change.failed) == ([("tiny", "2")], [], [])
        assert served(repository) == ["tiny/2", "tiny/1"]
        assert await answer(service) != first
        assert await answer(service, version="1") == first
        change = await repository.unload("tiny", "2")
        assert change.unloaded == [("tiny", "2")]
        assert await answer(service) == first
        assert (await repository.sync()).loaded == []
        assert index(repository)["tiny/2"] == ("UNAVAILABLE", "unloaded, or not among the versions to serve")
        assert (await repository.load("tiny", "2")).loaded == [("tiny", "2")]
        assert (await repository.load("tiny")).loaded == []

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario)


def test_a_model_that_is_unloaded_is_unknown_and_its_new_versions_stay_away_too(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository = service.repository
        await repository.unload("tiny")
        with pytest.raises(UnknownModelError, match="no model is loaded"):
            await answer(service)
        make_tiny_bundle(tmp_path, version="2", seed=1)
        assert (await repository.sync()).loaded == []
        assert (await repository.load("tiny")).loaded == [("tiny", "2"), ("tiny", "1")]

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario)


def test_what_did_not_change_is_loaded_again_only_when_told_so(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        before = service.models.find("tiny", None)
        assert (await service.repository.load("tiny")).loaded == []
        assert service.models.find("tiny", None) is before
        assert (await service.repository.load("tiny", again=True)).loaded == [("tiny", "1")]
        assert service.models.find("tiny", None) is not before

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario)


def test_a_load_that_fails_keeps_what_serves_and_says_why(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository, folder = service.repository, tmp_path / "tiny" / "1"
        before = await answer(service)
        whole = (folder / MODEL_FILE).read_bytes()
        (folder / MODEL_FILE).write_bytes(b"cut")
        for again in (False, True):
            with pytest.raises(LoadError, match=r"tiny/1: .*sha256 differs.*; what was served before is served still"):
                await repository.load("tiny", again=again)
            assert await answer(service) == before
        state, reason = index(repository)["tiny/1"]
        assert state == "READY"
        assert reason.startswith("serves as it was loaded before; the bundle in the folder is broken: ")
        assert (await repository.sync()).failed == []  # it did not change since
        (folder / MODEL_FILE).write_bytes(whole)
        assert (await repository.sync()).loaded == [("tiny", "1")]
        assert index(repository)["tiny/1"] == ("READY", "")

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario)


def test_a_broken_version_is_tried_again_when_it_is_asked_for_or_has_changed(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository, folder = service.repository, tmp_path / "tiny" / "2"
        assert index(repository)["tiny/2"][0] == "UNAVAILABLE"
        assert (await repository.sync()).failed == []
        with pytest.raises(LoadError, match="tiny/2: "):
            await repository.load("tiny", "2")
        replace(folder, seed=1)
        assert (await repository.sync()).loaded == [("tiny", "2")]
        assert service.models.broken == []

    make_tiny_bundle(tmp_path)
    (make_tiny_bundle(tmp_path, version="2") / MODEL_FILE).write_bytes(b"")
    run(tmp_path, scenario)


def test_latest_is_the_highest_version_that_loads(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository = service.repository
        assert served(repository) == ["tiny/9"]
        assert "sha256 differs" in index(repository)["tiny/10"][1]
        make_tiny_bundle(tmp_path, version="11", seed=2)
        change = await repository.sync()
        assert (change.loaded, change.unloaded) == ([("tiny", "11")], [("tiny", "9")])
        assert served(repository) == ["tiny/11"]
        await repository.load("tiny", "2")  # the operator's word goes before the policy
        assert served(repository) == ["tiny/11", "tiny/2"]
        assert (await repository.sync()).unloaded == []
        await repository.load("tiny")
        assert served(repository) == ["tiny/11"]

    for version in ("2", "9", "10"):
        make_tiny_bundle(tmp_path, version=version)
    (tmp_path / "tiny" / "10" / MODEL_FILE).write_bytes(b"")
    run(tmp_path, scenario, versions="latest")


def test_only_the_versions_that_were_named_are_served(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        assert served(service.repository) == ["tiny/3", "tiny/1"]

    for version in ("1", "2", "3"):
        make_tiny_bundle(tmp_path, version=version)
    run(tmp_path, scenario, versions="1,3")


def test_what_is_not_in_the_folder_is_named_with_what_is(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository = service.repository
        with pytest.raises(UnknownModelError, match=r"the folder has no model '\.\./x'; it has tiny"):
            await repository.load("../x")
        with pytest.raises(UnknownModelError, match=r"the folder has no tiny/7; it has 1"):
            await repository.load("tiny", "7")
        with pytest.raises(UnknownModelError, match=r"model tiny has no version '7'"):
            await repository.unload("tiny", "7")
        assert served(repository) == ["tiny/1"]

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario)


def test_an_engine_is_freed_when_its_model_is_unloaded_or_replaced(tmp_path: Path) -> None:
    engines: list[weakref.ref[OnnxRuntimeEngine]] = []

    def open_engine(bundle: Bundle) -> Engine:
        engine = OnnxRuntimeEngine(bundle)
        engines.append(weakref.ref(engine))
        return engine

    async def scenario(service: Service) -> None:
        gc.disable()  # nothing waits for the collector
        try:
            await answer(service)
            await service.repository.load("tiny", again=True)
            assert [engine() is None for engine in engines] == [True, False]
            await answer(service)
            await service.repository.unload("tiny")
            assert [engine() is None for engine in engines] == [True, True]
        finally:
            gc.enable()

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario, open_engine=open_engine)


def test_an_engine_that_wants_to_be_closed_is_closed_after_its_last_run(tmp_path: Path) -> None:
    seen: list[str] = []

    class Closing(GatedEngine):
        def close(self) -> None:
            seen.append(f"closed after {len(self.batches)}")

    engines: list[Closing] = []

    def open_engine(bundle: Bundle) -> Engine:
        engines.append(Closing(bundle))
        return engines[-1]

    async def scenario(service: Service) -> None:
        engines[0].forget()
        engines[0].gate.clear()
        asked = asyncio.create_task(answer(service))
        await until(lambda: len(engines[0].batches) == 1)
        unloading = asyncio.create_task(service.repository.unload("tiny"))
        await until(lambda: not service.models.ready)
        with pytest.raises(UnknownModelError):
            await answer(service)
        assert not unloading.done()
        assert seen == []
        engines[0].gate.set()
        assert b'"detections"' in await asked
        await unloading
        assert seen == ["closed after 1"]

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario, open_engine=open_engine)


def test_requests_in_flight_stay_with_the_version_that_took_them(tmp_path: Path) -> None:
    engines: list[GatedEngine] = []

    def open_engine(bundle: Bundle) -> Engine:
        engines.append(GatedEngine(bundle))
        return engines[-1]

    async def scenario(service: Service) -> None:
        before = await answer(service)
        engines[0].forget()
        engines[0].gate.clear()
        held = [asyncio.create_task(answer(service)) for _ in range(3)]  # one runs, two wait
        await until(lambda: service.models.find(None, None).waiting == 2)
        replace(tmp_path / "tiny" / "1", seed=1)
        reloading = asyncio.create_task(service.repository.load("tiny"))
        await until(lambda: service.models.find(None, None).engine is not engines[0])
        after = await answer(service)  # the new one answers while the old one drains
        assert after != before
        assert not reloading.done()
        engines[0].gate.set()
        assert await asyncio.gather(*held) == [before] * 3
        await reloading
        assert len(engines[0].batches) == 3

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario, open_engine=open_engine)


def test_a_change_goes_on_when_its_caller_leaves(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        make_tiny_bundle(tmp_path, version="2", seed=1)
        caller = asyncio.create_task(service.repository.load("tiny"))
        await asyncio.sleep(0)
        caller.cancel()
        await until(lambda: served(service.repository) == ["tiny/2", "tiny/1"])

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario)


def test_a_folder_that_is_watched_is_followed_once_it_rests(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        repository = service.repository
        make_tiny_bundle(tmp_path, version="2", seed=1)
        await until(lambda: served(repository) == ["tiny/2", "tiny/1"])
        shutil.rmtree(tmp_path / "tiny" / "1")
        await until(lambda: served(repository) == ["tiny/2"])
        before = await answer(service)
        replace(tmp_path / "tiny" / "2", seed=3)
        pipeline = service.models.find(None, None)
        await until(lambda: service.models.find(None, None) is not pipeline)
        assert await answer(service) != before
        shutil.rmtree(tmp_path / "tiny")  # a share that is not mounted any more looks like this
        await asyncio.sleep(0.5)
        assert served(repository) == ["tiny/2"]

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario, watch_s=0.1)


def test_a_server_that_stops_changes_no_models(tmp_path: Path) -> None:
    opening, go_on = threading.Event(), threading.Event()
    go_on.set()

    def open_engine(bundle: Bundle) -> Engine:
        opening.set()
        assert go_on.wait(PATIENCE_S)
        return OnnxRuntimeEngine(bundle)

    async def scenario(service: Service) -> None:
        opening.clear()
        go_on.clear()
        loading = asyncio.create_task(service.repository.load("tiny", again=True))
        await until(opening.is_set)
        pipeline = service.models.find(None, None)
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0)
        with pytest.raises(StoppingError, match="its models stay as they are"):
            await service.repository.unload("tiny")
        go_on.set()
        with pytest.raises(LoadError, match="the server stopped before the model was loaded"):
            await loading
        await closing
        assert service.models.find(None, None) is pipeline

    make_tiny_bundle(tmp_path)
    run(tmp_path, scenario, open_engine=open_engine)
