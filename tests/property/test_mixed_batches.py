"""Every request of a mixed batch is answered once, with its own parameters, equal to its answer alone."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from PIL import Image

from calibox_core.bundle import read_bundle
from calibox_core.fusion import FusionName
from calibox_core.score_map import ScoreMap
from calibox_server.batcher import Batcher
from calibox_server.detections import ImageDetections
from calibox_server.engine_line import EngineLine
from calibox_server.engine_runner import clock
from calibox_server.errors import OverloadedError, ServiceError
from calibox_server.metrics import Metrics
from calibox_server.parameters import read_parameters
from calibox_server.pipeline import Pipeline
from calibox_server.queue import Policy
from calibox_server.requests import ImagePart
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S, GatedEngine
from tests.support.pictures import encoded, picture
from tests.support.runners import in_task

MAX_BATCH = 8
PICTURES = (
    encoded(picture(width=128, height=96), "PNG"),
    encoded(picture(width=300, height=80, seed=1), "JPEG", quality=90),
    encoded(picture(width=40, height=200, seed=2), "BMP"),
    encoded(picture(width=17, height=13, seed=3), "WEBP"),
    encoded(Image.new("RGB", (64, 64), (114, 114, 114)), "PNG"),
)
USED_BY = {FusionName.GEOMETRIC: ("alpha", 1.0), FusionName.POWER: ("alpha", 4.0), FusionName.GAUSSIAN: ("sigma", 2.0)}

Given = dict[str, list[Any]]


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, Given]:
    """A picture and the parameters of one request; each parameter may be left to the manifest."""
    given: Given = {}
    for name in ("score_threshold", "iou_threshold"):
        if draw(st.booleans()):
            given[name] = [draw(st.floats(0, 1, width=16))]
    if draw(st.booleans()):
        fusion = draw(st.sampled_from(FusionName))
        given["fusion"] = [fusion.value]
        if fusion in USED_BY and draw(st.booleans()):
            name, high = USED_BY[fusion]
            given[name] = [draw(st.floats(0.0625, high, width=16))]
    if draw(st.booleans()):
        given["max_detections"] = [draw(st.integers(1, 50))]
    if draw(st.booleans()):
        given["classes"] = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=2))
    return draw(st.integers(0, len(PICTURES) - 1)), given


@dataclass
class Bench:
    """A pipeline over the real engine, whose batches the test decides, and every answer that was given alone."""

    pipeline: Pipeline
    engine: GatedEngine
    alone: dict[str, ImageDetections] = field(default_factory=dict)

    async def ask(self, which: int, given: Given) -> ImageDetections:
        parameters = read_parameters(given, self.pipeline.manifest, default_timeout_ms=1e3 * PATIENCE_S)
        with self.pipeline.admit(1) as submit:
            part = ImagePart(PICTURES[which], "the image")
            found, _ = await self.pipeline.detect(submit, [part], parameters, deadline=clock() + PATIENCE_S)
        assert len(found) == 1
        return found[0]

    async def ask_alone(self, which: int, given: Given) -> ImageDetections:
        key = repr((which, given))
        if key not in self.alone:
            self.alone[key] = await self.ask(which, given)
        return self.alone[key]

    async def ask_together(
        self, asked: Sequence[tuple[int, Given]], leavers: set[int]
    ) -> list[ImageDetections | BaseException]:
        """All in one batch: they gather behind a request that the engine holds. ``leavers`` go while they wait."""
        self.engine.forget()
        self.engine.gate.clear()
        plug = asyncio.create_task(self.ask(0, {}))
        await asyncio.to_thread(self.engine.wait_for_run)
        calls = [asyncio.create_task(self.ask(*request)) for request in asked]
        while self.pipeline.waiting < len(calls):
            await asyncio.sleep(0)
        for leaver in leavers:
            calls[leaver].cancel()
        self.engine.gate.set()
        await plug
        return await asyncio.gather(*calls, return_exceptions=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    score_map = ScoreMap(raw=(0.0, 0.25, 1.0), mapped=(0.0, 0.5, 1.0))
    bundle = read_bundle(make_tiny_bundle(tmp_path_factory.mktemp("models"), score_map=score_map))
    engine = GatedEngine(bundle, max_batch=MAX_BATCH)
    with ThreadPoolExecutor(2) as decoders:
        metrics = Metrics().model("tiny", "1")
        policy = Policy(max_batch=MAX_BATCH, max_delay=0, instances=1, in_flight=1)
        line = EngineLine(bundle.manifest, engine, policy=policy, queue_size=2 * MAX_BATCH, metrics=metrics)
        pipeline = Pipeline(
            bundle.manifest, engine, line, decoders=decoders, max_pixels=10**6, timeout_ms=1e4, metrics=metrics
        )
        yield Bench(pipeline, engine)
        asyncio.run(pipeline.close(PATIENCE_S))


def assert_same(found: ImageDetections, expected: ImageDetections) -> None:
    """The same answer: labels exactly, scores to 1e-5, boxes to 0.01 px."""
    assert (found.width, found.height) == (expected.width, expected.height)
    assert found.labels.tolist() == expected.labels.tolist()
    for name in ("scores", "classification_scores", "localization_scores"):
        assert np.abs(getattr(found, name) - getattr(expected, name)).max(initial=0) <= 1e-5
    assert np.abs(found.boxes - expected.boxes).max(initial=0) <= 0.01


def assert_obeys(found: ImageDetections, given: Given) -> None:
    """What a request asked for can be seen in its answer, whatever its mates asked for."""
    threshold = given.get("score_threshold", [0.3])[0]
    assert (found.scores >= threshold - 1e-6).all()
    assert len(found.labels) <= given.get("max_detections", [50])[0]
    if "classes" in given:
        assert {label + 1 for label in found.labels.tolist()} <= set(given["classes"])


@given(asked=st.lists(requests(), min_size=1, max_size=MAX_BATCH), data=st.data())
def test_requests_of_a_mixed_batch_are_answered_as_if_alone(
    bench: Bench, asked: list[tuple[int, Given]], data: st.DataObject
) -> None:
    leavers = data.draw(st.sets(st.integers(0, len(asked) - 1), max_size=len(asked)) | st.just(set()), "leavers")

    async def scenario() -> None:
        alone = [await bench.ask_alone(*request) for request in asked]
        together = await bench.ask_together(asked, leavers)
        stayed = len(asked) - len(leavers)
        assert [len(batch.images) for batch in bench.engine.batches] == [1, stayed][: 1 + (stayed > 0)]
        for i, (answer, expected) in enumerate(zip(together, alone, strict=True)):
            if i in leavers:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert isinstance(answer, ImageDetections)
                assert_same(answer, expected)
                assert_obeys(answer, asked[i][1])

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


class Stage:
    """A batcher whose runner and clock the test plays."""

    def __init__(self, max_batch: int, instances: int, queue_size: int) -> None:
        self.now = 0.0
        self.running: list[tuple[list[int], asyncio.Future[list[int]]]] = []
        self.seen: list[int] = []
        self.released: list[int] = []
        self.callers: list[asyncio.Task[int]] = []
        self.policy = Policy(max_batch=max_batch, max_delay=0, instances=instances, in_flight=instances)
        self.queue_size = queue_size
        self.batcher: Batcher[int, int] = Batcher(
            in_task(self.run), self.policy, queue_size=queue_size, release=self.released.append, clock=lambda: self.now
        )

    async def run(self, batch: Sequence[int]) -> list[int]:
        assert 1 <= len(batch) <= self.policy.max_batch
        assert not set(batch) & set(self.seen + self.released), "work ran twice, or after it was let go"
        self.seen += batch
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.running.append((list(batch), done))
        assert len(self.running) <= self.policy.in_flight
        return await done

    async def call(self, work: int, patience: float) -> int:
        with self.batcher.admit(1) as submit:
            return await submit(work, deadline=self.now + patience)

    async def act(self, action: tuple[Any, ...]) -> None:
        match action:
            case ("come", patience):
                held, work = self.batcher.held, len(self.callers)
                caller = asyncio.create_task(self.call(work, patience))
                self.callers.append(caller)
                await settle()
                if held >= self.queue_size:
                    assert isinstance(caller.exception(), OverloadedError)
            case ("leave", which) if self.callers:
                self.callers[which % len(self.callers)].cancel()
            case ("end", which, how) if self.running:
                batch, done = self.running.pop(which % len(self.running))
                if how == "fails":
                    done.set_exception(RuntimeError("played"))
                else:
                    done.set_result([work * 10 for work in batch[how == "loses one" :]])
            case ("pass", seconds):
                self.now += seconds
        await settle()
        # Work-conserving: nothing waits while an instance is idle.
        assert self.batcher.waiting == 0 or len(self.running) == self.policy.instances


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


ACTIONS = st.one_of(
    st.tuples(st.just("come"), st.sampled_from([1e3, 1e6])),
    st.tuples(st.just("come"), st.sampled_from([1e3, 1e6])),
    st.tuples(st.just("leave"), st.integers(0, 30)),
    st.tuples(st.just("end"), st.integers(0, 3), st.sampled_from(["well", "well", "fails", "loses one"])),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 2e3])),
)


@given(
    actions=st.lists(ACTIONS, max_size=40),
    max_batch=st.integers(1, 4),
    instances=st.integers(1, 3),
    queue_size=st.integers(1, 12),
)
def test_whatever_happens_each_caller_is_answered_once_and_each_piece_of_work_is_let_go_once(
    actions: list[tuple[Any, ...]], max_batch: int, instances: int, queue_size: int
) -> None:
    async def scenario() -> None:
        stage = Stage(max_batch, instances, queue_size)
        for action in actions:
            await stage.act(action)
        closing = asyncio.create_task(stage.batcher.close(timeout=PATIENCE_S))
        while not closing.done():
            await stage.act(("end", 0, "well"))
        await closing
        answers = await asyncio.gather(*stage.callers, return_exceptions=True)
        for work, answer in enumerate(answers):
            event("cancelled" if isinstance(answer, asyncio.CancelledError) else type(answer).__name__)
            assert answer == work * 10 or isinstance(answer, ServiceError | asyncio.CancelledError)
            entered = not isinstance(answer, OverloadedError)
            assert stage.released.count(work) == entered
        assert stage.batcher.held == stage.batcher.waiting == 0

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
