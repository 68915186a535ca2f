"""The models of a front end, as the engine process tells of them."""

import asyncio
import os
from typing import Any

import pytest

from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.errors import (
    EngineAwayError,
    StoppingError,
    UnknownModelError,
)
from calibox_server.metrics import Metrics
from calibox_server.pipeline import Pipeline
from calibox_server.workers import messages
from calibox_server.workers.catalogue import Catalogue, FarEngine, Offer
from calibox_server.workers.desk import Desk
from calibox_server.workers.far_repository import FarRepository
from calibox_server.workers.places import Places, SharedHeld
from calibox_server.workers.remote_line import RemoteLine
from calibox_server.workers.shared import read_document
from calibox_server.workers.slab import Layout, SharedSlots
from tests.support.gated_engine import PATIENCE_S
from tests.support.manifests import small_manifest
from tests.support.worker_parts import LATER, PARAMETERS, Post, run

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


def offer(model: int, **changes: Any) -> Offer:
    return Offer(model, small_manifest(**changes), FarEngine("x 1.0 (CPU)", 1, 1, 1))


class Front:
    """The models of one front end, whose engine process is played by the test."""

    def __init__(self) -> None:
        self.page = Places.new(2)
        self.desk = Desk()
        self.repository = FarRepository(self.desk, self.make_pipeline)
        self.models = self.repository.models
        self.post = Post()
        self.number = 0

    def make_pipeline(self, offer: Offer) -> Pipeline:
        line = RemoteLine(
            SharedSlots(Layout.of(offer.manifest), count=2, keep=2),
            self.desk,
            queue_size=2,
            held=SharedHeld(Places(self.page, 2, 1), offer.model),
        )
        counted = Metrics().model(offer.manifest.name, offer.manifest.version)
        nobody: Any = None  # decodes
        return Pipeline(
            offer.manifest, offer.engine, line, decoders=nobody, max_pixels=1, timeout_ms=1e4, metrics=counted
        )

    def engine_comes(self, *offers: Offer) -> None:
        self.post = Post()
        self.repository.engine_came(self.post)  # type: ignore[arg-type]
        self.apply(*offers)

    def apply(self, *offers: Offer) -> None:
        self.number += 1
        self.repository.apply(Catalogue(offers, (), ()), self.number)

    async def ask(self) -> asyncio.Task[RawDetections]:
        line = self.models.find(None, None).line

        async def submit() -> RawDetections:
            with line.admit(1) as hand_in:
                return await hand_in(Work(line.slots.take(), PARAMETERS, 0, clock()), deadline=LATER)

        task = asyncio.create_task(submit())
        await asyncio.sleep(0)
        return task

    def kinds(self) -> list[tuple[int, int]]:
        return [(kind, number) for kind, number, _ in self.post.sent]


def test_a_catalogue_is_applied_and_told_and_an_old_version_is_let_go_once_it_is_idle() -> None:
    async def scenario() -> None:
        front = Front()
        front.engine_comes(offer(1))
        first = front.models.find(None, None)
        assert front.kinds() == [(messages.SLAB, 1), (messages.APPLIED, 1)]
        asked = await front.ask()
        front.apply(offer(2, description="again"))
        assert front.models.find(None, None) is not first
        await asyncio.sleep(0)
        assert (messages.LET_GO, 1) not in front.kinds()
        asked.cancel()
        await asyncio.wait([asked])
        await front.repository.close(PATIENCE_S)
        assert front.kinds()[2:] == [(messages.SLAB, 2), (messages.APPLIED, 2), (messages.LET_GO, 1)]

    run(scenario())


def test_after_the_engine_process_ended_the_same_bundle_goes_on_and_a_changed_one_ends_what_waited() -> None:
    async def scenario() -> None:
        front = Front()
        front.engine_comes(offer(1), offer(2, name="other"))
        pipelines = list(front.models)
        front.repository.engine_left()
        front.engine_comes(offer(7), offer(8, name="other"))  # as its successor calls them
        assert list(front.models) == pipelines
        front.apply(offer(7))
        assert len(list(front.models)) == 1
        asked = await front.ask()
        front.repository.engine_left()
        with pytest.raises(EngineAwayError):
            await front.repository.load("cells")
        front.engine_comes(offer(9, description="changed"))
        with pytest.raises(StoppingError):
            await asked
        assert front.models.find(None, None) not in pipelines

    run(scenario())


def test_a_change_is_asked_of_the_engine_process_and_its_refusal_is_raised() -> None:
    async def scenario() -> None:
        front = Front()
        front.engine_comes(offer(1))
        loading = asyncio.create_task(front.repository.load("cells", again=True))
        await asyncio.sleep(0)
        kind, number, (fd,) = front.post.sent[-1]
        assert kind == messages.CHANGE
        assert read_document(fd) == {"name": "cells", "version": None, "again": True, "unload": False}
        front.repository.told(number, {"loaded": [["cells", "1"]], "unloaded": []})
        assert (await loading).loaded == [("cells", "1")]
        unloading = asyncio.create_task(front.repository.unload("none"))
        await asyncio.sleep(0)
        front.repository.told(front.post.sent[-1][1], {"code": "unknown_model", "detail": "there is none"})
        with pytest.raises(UnknownModelError, match="there is none"):
            await unloading
        lost = asyncio.create_task(front.repository.unload("cells"))
        await asyncio.sleep(0)
        front.repository.engine_left()
        with pytest.raises(EngineAwayError):
            await lost

    run(scenario())
