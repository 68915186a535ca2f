"""Pictures that wait as they were sent, and are decoded by the thread that runs them."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest

from calibox_core.bundle import Bundle, read_bundle
from calibox_server.detections import ImageDetections
from calibox_server.engine_line import EngineLine
from calibox_server.engine_runner import clock
from calibox_server.errors import CutImageError, ServiceError
from calibox_server.metrics import Metrics
from calibox_server.options import available_cores
from calibox_server.pipeline import Pipeline
from calibox_server.queue import Policy
from calibox_server.requests import ImagePart
from calibox_server.slots import Slot
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S, GatedEngine
from tests.support.pictures import encoded, picture

PICTURE = encoded(picture(width=200, height=150, seed=3), "JPEG", quality=90)
DAMAGED = encoded(picture(), "PNG")[:60] + b"\xff" * 40
CORES = available_cores()


class OnEveryCore(GatedEngine):
    """Gated, on the CPU."""

    on_cpu = True

    def wait_for_runs(self, count: int) -> None:
        """Blocks until so many more runs have begun."""
        for _ in range(count):
            self.wait_for_run()


class Elsewhere(GatedEngine):
    """Gated, on some accelerator."""

    on_cpu = False


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path_factory.mktemp("models")))


def line_of(bundle: Bundle, engine: GatedEngine) -> EngineLine:
    policy = Policy(max_batch=engine.max_batch, max_delay=0, instances=engine.instances, in_flight=engine.in_flight)
    return EngineLine(bundle.manifest, engine, policy=policy, queue_size=64, metrics=Metrics().model("tiny", "1"))


@asynccontextmanager
async def pipeline_of(bundle: Bundle, engine: GatedEngine, *, decoders: int = 1) -> AsyncIterator[Pipeline]:
    with ThreadPoolExecutor(decoders) as pool:
        pipeline = Pipeline(
            bundle.manifest,
            engine,
            line_of(bundle, engine),
            decoders=pool,
            max_pixels=10**6,
            timeout_ms=1e3 * PATIENCE_S,
            metrics=Metrics().model("tiny", "1"),
        )
        yield pipeline
        engine.gate.set()
        await pipeline.close(PATIENCE_S)


async def ask(pipeline: Pipeline, *images: bytes) -> list[ImageDetections]:
    parts = [ImagePart(data, f"image {i}") for i, data in enumerate(images)]
    with pipeline.admit(len(images)) as submit:
        parameters = pipeline.parameters({"score_threshold": [0]}, len(images))
        found, _ = await pipeline.detect(submit, parts, parameters, deadline=clock() + PATIENCE_S)
    return found


@pytest.mark.parametrize(
    ("kind", "instances", "max_batch", "decodes"),
    [
        (OnEveryCore, CORES, 1, True),
        (OnEveryCore, CORES + 1, 1, True),
        (OnEveryCore, CORES, 2, False),  # its mates would wait for a picture that another thread could decode
        (Elsewhere, CORES, 1, False),
        (GatedEngine, CORES, 1, False),  # it does not say where it runs
    ],
)
def test_pictures_wait_where_runs_of_one_image_take_every_core(
    bundle: Bundle, kind: type[GatedEngine], instances: int, max_batch: int, decodes: bool
) -> None:
    assert line_of(bundle, kind(bundle, instances=instances, max_batch=max_batch)).decodes is decodes


@pytest.mark.skipif(CORES == 1, reason="one core: every engine runs on all of them")
def test_fewer_runs_than_cores_leave_the_decoding_to_threads_of_its_own(bundle: Bundle) -> None:
    assert line_of(bundle, OnEveryCore(bundle, instances=CORES - 1)).decodes is False


def test_the_answer_is_the_one_of_a_picture_that_was_decoded_before(bundle: Bundle) -> None:
    async def answers() -> list[ImageDetections]:
        found = []
        for kind in (OnEveryCore, Elsewhere):
            async with pipeline_of(bundle, kind(bundle, instances=CORES)) as pipeline:
                found += await ask(pipeline, PICTURE)
        return found

    late, early = asyncio.run(answers())
    assert (late.width, late.height) == (early.width, early.height) == (200, 150)
    assert len(late.labels) > 0
    for field in ("boxes", "labels", "scores", "classification_scores", "localization_scores"):
        np.testing.assert_array_equal(getattr(late, field), getattr(early, field))


def test_what_waits_takes_no_slot(bundle: Bundle) -> None:
    engine = OnEveryCore(bundle, instances=CORES)

    async def slots_while_full() -> int:
        async with pipeline_of(bundle, engine) as pipeline:
            take, taken = pipeline.line.slots.take, 0

            def counted() -> Slot:
                nonlocal taken
                taken += 1
                return take()

            pipeline.line.slots.take = counted  # type: ignore[method-assign]
            engine.gate.clear()
            calls = [asyncio.create_task(ask(pipeline, PICTURE)) for _ in range(4 * CORES)]
            await asyncio.to_thread(engine.wait_for_runs, CORES)
            while_full = taken
            engine.gate.set()
            await asyncio.gather(*calls)
            assert taken == 4 * CORES
            return while_full

    assert asyncio.run(slots_while_full()) == CORES


def test_a_damaged_picture_hears_of_it_and_its_neighbours_are_answered(bundle: Bundle) -> None:
    async def answers() -> list[list[ImageDetections] | BaseException]:
        async with pipeline_of(bundle, OnEveryCore(bundle, instances=CORES)) as pipeline:
            calls = [ask(pipeline, data) for data in (PICTURE, DAMAGED, PICTURE)]
            return await asyncio.gather(*calls, return_exceptions=True)

    first, damaged, last = asyncio.run(answers())
    assert isinstance(damaged, CutImageError)
    assert str(damaged).startswith("image 0 is not read")
    assert isinstance(first, list)
    assert isinstance(last, list)
    assert first[0].scores.tolist() == last[0].scores.tolist() != []


def test_of_several_images_the_first_that_cannot_be_read_is_told_before_the_engine_sees_any(bundle: Bundle) -> None:
    engine = OnEveryCore(bundle, instances=CORES)

    async def refused() -> None:
        async with pipeline_of(bundle, engine) as pipeline:
            await ask(pipeline, PICTURE, DAMAGED, b"nothing")

    with pytest.raises(ServiceError, match=r"^image 1 is not read"):
        asyncio.run(refused())
    assert engine.batches == []


def test_a_caller_who_leaves_before_a_core_is_free_never_reaches_the_engine(bundle: Bundle) -> None:
    engine = OnEveryCore(bundle, instances=CORES)

    async def leave() -> None:
        async with pipeline_of(bundle, engine) as pipeline:
            engine.gate.clear()
            running = [asyncio.create_task(ask(pipeline, PICTURE)) for _ in range(CORES)]
            await asyncio.to_thread(engine.wait_for_runs, CORES)
            # As many are handed over ahead, and as many again wait in the queue.
            leavers = [asyncio.create_task(ask(pipeline, PICTURE)) for _ in range(2 * CORES)]
            for _ in range(3):
                await asyncio.sleep(0)
            assert pipeline.waiting == CORES
            for leaver in leavers:
                leaver.cancel()
            await asyncio.gather(*leavers, return_exceptions=True)
            engine.gate.set()
            await asyncio.gather(*running)

    asyncio.run(leave())
    assert len(engine.batches) == CORES
