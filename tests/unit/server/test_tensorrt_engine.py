"""The TensorRT runner over a CUDA in memory: what each caller gets, whatever the others do."""

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from calibox_core.engines import EngineError
from calibox_core.manifest import InputSpec
from calibox_core.nms import NmsAttributes
from calibox_core.tensorrt_package import PLAN_FILE
from calibox_server.engine import EngineInput, EngineOutput
from calibox_server.memory import MemoryMeter
from calibox_server.tensorrt.engine import TensorRtEngine
from calibox_server.tensorrt.rack import Rack
from calibox_server.tensorrt.slot import PADDING
from tests.support.fake_tensorrt import Arrays, FakeTensorRt, Network, toy_answer, toy_network, write_engine
from tests.support.manifests import small_manifest
from tests.support.memory_driver import MemoryDriver

ROWS = 5
MANIFEST = small_manifest(input=InputSpec(height=32, width=32), nms=NmsAttributes(max_detections=ROWS))
PATIENCE_S = 60  # for what happens within milliseconds on a healthy machine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


class GatedToy:
    """The toy network behind a gate that is open at first; each run that reached it is counted."""

    def __init__(self) -> None:
        self.arrived, self.gate = threading.Semaphore(0), threading.Event()
        self.gate.set()

    def __call__(self, feeds: Arrays) -> Arrays:
        self.arrived.release()
        assert self.gate.wait(PATIENCE_S)
        return toy_network(ROWS)(feeds)

    def shut(self) -> None:
        """From now on; what ran so far does not count."""
        while self.arrived.acquire(blocking=False):
            pass
        self.gate.clear()


@contextmanager
def opened(
    folder: Path,
    driver: MemoryDriver | None = None,
    *,
    network: Network | None = None,
    instances: int = 1,
    max_batch: int | None = None,
    **changes: Any,
) -> Iterator[TensorRtEngine]:
    """An engine that must leave nothing behind."""
    driver = driver or MemoryDriver()
    trt = FakeTensorRt(driver, network or toy_network(ROWS))
    built = write_engine(folder, MANIFEST, **changes)
    engine = TensorRtEngine(trt, driver, built, MANIFEST, instances=instances, max_batch=max_batch)
    yield engine
    engine.close()
    assert driver.live == 0
    assert trt.engines_alive == 0


def batch_of(size: int, seed: int) -> EngineInput:
    """Images and settings that differ from image to image."""
    rng = np.random.default_rng(seed)
    return EngineInput(
        images=rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
        fusion=rng.random((size, 3), np.float32),
        score_threshold=rng.random(size, np.float32),
        iou_threshold=rng.random(size, np.float32),
        refine_steps=rng.integers(0, 6, size, np.int32),
    )


def assert_answers(found: EngineOutput, batch: EngineInput) -> None:
    for name, value, expected in zip(EngineOutput._fields, found, toy_answer(batch, ROWS), strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=name)
        assert value.dtype == expected.dtype


def test_the_memory_of_the_device_is_told_as_it_was_asked_for(tmp_path: Path) -> None:
    driver = MemoryDriver()
    with opened(tmp_path, driver, instances=2, max_batch=4) as engine:
        (plan,) = tmp_path.rglob(PLAN_FILE)
        assert engine.memory_bytes == driver.device_bytes + plan.stat().st_size
        meter = MemoryMeter(lambda _: engine)
        assert meter.grown(MANIFEST, engine) == engine.memory_bytes


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_a_batch_of_any_size_gets_its_own_rows(tmp_path: Path, size: int, graphs: bool) -> None:
    with opened(tmp_path, MemoryDriver(graphs=graphs), max_batch=6) as engine:
        batch = batch_of(size, seed=size)
        assert_answers(engine.run(batch), batch)
        assert (engine.max_batch, engine.graphs) == (6, graphs)
        assert engine.name == "tensorrt 11.4.0.2 fp16 (Toy 1)"


@pytest.mark.parametrize(
    ("max_batch", "profiles", "sizes"),
    [
        (8, [[1, 8]], {1, 2, 4, 8}),
        (6, [[1, 8]], {1, 2, 4, 6}),
        (1, [[1, 8]], {1}),
        (None, [[1, 3]], {1, 2, 3}),
        (8, [[4, 8]], {4, 8}),  # the engine refuses less: smaller batches are padded
        (2, [[4, 8]], {4}),
        (8, [[1, 1], [2, 8]], {1, 2, 4, 8}),
    ],
)
def test_batches_are_padded_to_powers_of_two_and_the_largest(
    tmp_path: Path, max_batch: int | None, profiles: list[list[int]], sizes: set[int]
) -> None:
    seen: set[int] = set()

    def network(feeds: Arrays) -> Arrays:
        seen.add(len(feeds["images"]))
        return toy_network(ROWS)(feeds)

    with opened(tmp_path, network=network, max_batch=max_batch, profiles=profiles) as engine:
        assert seen == sizes  # every size was run once before the first request
        for size in range(1, engine.max_batch + 1):
            batch = batch_of(size, seed=size)
            assert_answers(engine.run(batch), batch)
        assert seen == sizes


def test_padding_asks_for_no_work(tmp_path: Path) -> None:
    seen: list[Arrays] = []

    def network(feeds: Arrays) -> Arrays:
        seen.append(feeds)
        return toy_network(ROWS)(feeds)

    with opened(tmp_path, network=network, max_batch=4) as engine:
        for _ in range(4):  # both slots hold settings of a full batch now
            engine.run(batch_of(4, seed=0))
        batch = batch_of(3, seed=1)
        engine.run(batch)
    assert PADDING["refine_steps"] == 0
    for name, value in PADDING.items():
        np.testing.assert_array_equal(seen[-1][name][:3], getattr(batch, name))
        np.testing.assert_array_equal(seen[-1][name][3:], np.full_like(seen[-1][name][3:], value))


def test_no_images_are_a_batch_too(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        found = engine.run(batch_of(0, seed=0))
        assert [len(value) for value in found] == [0] * 6
        with pytest.raises(EngineError, match="runs at most 8 images at once, not 9"):
            engine.run(batch_of(9, seed=0))


def test_an_answer_is_no_view_of_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        first, again = batch_of(2, seed=1), batch_of(2, seed=2)
        found = engine.run(first)
        for _ in range(engine.in_flight + 1):
            engine.run(again)
        assert_answers(found, first)
    assert_answers(found, first)  # nor of what was freed


def test_a_run_is_one_launch_where_the_device_can(tmp_path: Path) -> None:
    driver = MemoryDriver()
    with opened(tmp_path, driver, max_batch=4) as engine:
        before = driver.calls.copy()
        engine.run(batch_of(3, seed=0))
        spent = driver.calls - before
        # 5 inputs and 6 outputs; the graph's own kernel was queued when it was captured
        assert spent == {"to_device": 5, "launch": 1, "to_host": 6, "record": 1, "synchronize": 1}


def test_only_the_images_that_are_there_travel(tmp_path: Path) -> None:
    travelled: list[int] = []

    class Counting(MemoryDriver):
        def to_device(self, address: Any, array: Any, stream: Any) -> None:
            travelled.append(len(array))
            super().to_device(address, array, stream)

        def to_host(self, array: Any, address: Any, stream: Any) -> None:
            travelled.append(len(array))
            super().to_host(array, address, stream)

    with opened(tmp_path, Counting(), max_batch=8) as engine:
        travelled.clear()
        engine.run(batch_of(5, seed=0))
    assert travelled == [5, 8, 8, 8, 8, *[5] * 6]  # images; the settings with those of the padding; outputs


@pytest.mark.parametrize("broken", ["driver", "engine"])
def test_without_graphs_every_run_is_queued_and_the_log_says_why(tmp_path: Path, broken: str) -> None:
    driver = MemoryDriver(graphs=broken == "engine")
    if broken == "engine":
        driver.fail_at["kernel"] = 12  # 3 sizes in 2 slots get a profile, and then a warm-up; the first capture is next
    with capture_logs() as logs, opened(tmp_path, driver, max_batch=4) as engine:
        before = driver.calls.copy()
        batch = batch_of(3, seed=0)
        assert_answers(engine.run(batch), batch)
        assert (driver.calls - before)["kernel"] == 1
        assert (driver.calls - before)["launch"] == 0
    reason = "this engine cannot be captured" if broken == "driver" else "kernel failed, as the test wants"
    assert [(line["event"], line["reason"]) for line in logs] == [("cuda_graphs_unavailable", reason)]


def test_two_batches_are_in_flight_at_once(tmp_path: Path) -> None:
    toy = GatedToy()
    driver = MemoryDriver()
    with opened(tmp_path, driver, network=toy, max_batch=2) as engine, ThreadPoolExecutor(3) as pool:
        assert (engine.instances, engine.in_flight) == (1, 2)
        toy.shut()
        batches = [batch_of(2, seed) for seed in range(3)]
        jobs = [pool.submit(engine.run, batch) for batch in batches]
        assert toy.arrived.acquire(timeout=PATIENCE_S)
        assert toy.arrived.acquire(timeout=PATIENCE_S)  # both are on the device
        assert not toy.arrived.acquire(timeout=0.05)  # the third has no slot
        toy.gate.set()
        for job, batch in zip(jobs, batches, strict=True):
            assert_answers(job.result(PATIENCE_S), batch)
    assert driver.most_in_flight == 2


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=5),
    instances=st.integers(1, 3),
    graphs=st.booleans(),
    failing=st.dictionaries(st.sampled_from(["to_device", "to_host", "launch", "kernel"]), st.integers(0, 30)),
)
def test_every_caller_gets_its_own_answer_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    instances: int,
    graphs: bool,
    failing: dict[str, int],
) -> None:
    driver = MemoryDriver(graphs=graphs)
    folder = tmp_path_factory.mktemp("small")
    with opened(folder, driver, instances=instances, max_batch=5) as engine:
        driver.fail_at |= failing

        def caller(index: int) -> int:
            errors = 0
            for turn, size in enumerate(sizes[index]):
                batch = batch_of(size, seed=100 * index + turn)
                try:
                    found = engine.run(batch)
                except EngineError:
                    errors += 1
                else:
                    assert_answers(found, batch)
            return errors

        with ThreadPoolExecutor(len(sizes)) as pool:
            errors = sum(pool.map(caller, range(len(sizes))))
        assert errors == len(failing) - len(driver.fail_at)
        driver.fail_at.clear()
        for size in range(1, 6):  # and every slot still works
            batch = batch_of(size, seed=size)
            assert_answers(engine.run(batch), batch)


@pytest.mark.parametrize("step", ["to_device", "launch", "to_host", "record"])
def test_a_failure_on_the_way_frees_the_slot(tmp_path: Path, step: str) -> None:
    driver = MemoryDriver()
    with opened(tmp_path, driver) as engine:
        for failing in range(5):  # more often than there are slots
            driver.fail_at[step] = failing % 2 if step.startswith("to") else 0
            with pytest.raises(EngineError, match=f"{step} failed, as the test wants"):
                engine.run(batch_of(2, seed=failing))
        batch = batch_of(2, seed=9)
        assert_answers(engine.run(batch), batch)


def test_a_failure_on_the_device_is_told_and_frees_the_slot(tmp_path: Path) -> None:
    broken = threading.Event()

    def network(feeds: Arrays) -> Arrays:
        if broken.is_set():
            raise EngineError("an illegal memory access was encountered")
        return toy_network(ROWS)(feeds)

    with opened(tmp_path, network=network) as engine:
        broken.set()
        for seed in range(3):
            with pytest.raises(EngineError, match="illegal memory access"):
                engine.run(batch_of(1, seed))
        broken.clear()
        batch = batch_of(3, seed=0)
        assert_answers(engine.run(batch), batch)


def test_what_tensorrt_refuses_is_told_with_its_own_words(tmp_path: Path) -> None:
    driver = MemoryDriver(graphs=False)
    trt = FakeTensorRt(driver, toy_network(ROWS))
    engine = TensorRtEngine(trt, driver, write_engine(tmp_path, MANIFEST), MANIFEST)
    trt.fail_at.add("execute_async_v3")
    with pytest.raises(
        EngineError, match=r"tensorrt 11\.4\.0\.2 fp16 \(Toy 1\) does not run: execute_async_v3 said no$"
    ):
        engine.run(batch_of(1, seed=0))
    trt.fail_at.clear()
    batch = batch_of(1, seed=0)
    assert_answers(engine.run(batch), batch)


def test_close_waits_for_what_runs_and_refuses_what_waits(tmp_path: Path) -> None:
    toy = GatedToy()
    driver = MemoryDriver()
    with opened(tmp_path, driver, network=toy, max_batch=2) as engine, ThreadPoolExecutor(4) as pool:
        toy.shut()
        batches = [batch_of(2, seed) for seed in range(3)]
        jobs = [pool.submit(engine.run, batch) for batch in batches]
        for _ in range(engine.in_flight):
            assert toy.arrived.acquire(timeout=PATIENCE_S)
        closing = pool.submit(engine.close)
        done, running = wait(jobs, PATIENCE_S, return_when=FIRST_COMPLETED)
        (refused,) = done
        with pytest.raises(EngineError, match="was closed"):
            refused.result()
        held = driver.live
        toy.gate.set()
        closing.result(PATIENCE_S)
        for job in running:
            assert_answers(job.result(PATIENCE_S), batches[jobs.index(job)])
        assert held > 0  # nothing was freed under their feet
    with pytest.raises(EngineError, match=r"tensorrt .* was closed"):
        engine.run(batches[0])
    engine.close()  # once more does nothing


@pytest.mark.parametrize("step", ["record", "synchronize"])
def test_closing_waits_for_work_that_nobody_waited_for(tmp_path: Path, step: str) -> None:
    driver = MemoryDriver()
    with opened(tmp_path, driver) as engine:  # and closed, while launches and copies are queued
        driver.fail_at[step] = 0
        with pytest.raises(EngineError, match=f"{step} failed"):
            engine.run(batch_of(2, seed=0))


def test_a_rack_is_closed_when_everything_is_back() -> None:
    rack, steps = Rack(["a", "b"], "the rack"), []

    def close() -> None:
        rack.close()
        steps.append("closed")

    def borrow() -> None:
        while True:
            with rack.lend():
                pass

    with ThreadPoolExecutor(1) as pool:
        with rack.lend():
            closing = pool.submit(close)
            with pytest.raises(EngineError, match="the rack was closed"):
                borrow()  # until the other thread got there
            wait([closing], 0.05)
            steps.append("given back")
        closing.result(PATIENCE_S)
    assert steps == ["given back", "closed"]


def test_an_engine_that_is_let_go_frees_the_device(tmp_path: Path) -> None:
    driver = MemoryDriver()
    trt = FakeTensorRt(driver, toy_network(ROWS))
    engine = TensorRtEngine(trt, driver, write_engine(tmp_path, MANIFEST), MANIFEST)
    assert driver.live > 0
    del engine
    gc.collect()
    assert driver.live == 0
    assert trt.engines_alive == 0


@pytest.mark.parametrize("call", ["allocate", "pinned", "create_stream", "create_event", "to_device", "synchronize"])
def test_what_fails_half_way_through_loading_leaves_nothing(tmp_path: Path, call: str) -> None:
    for failing in range(40):
        driver = MemoryDriver()
        driver.fail_at[call] = failing
        trt = FakeTensorRt(driver, toy_network(ROWS))
        built = write_engine(tmp_path / str(failing), MANIFEST)
        with suppress(EngineError):
            TensorRtEngine(trt, driver, built, MANIFEST, max_batch=2).close()
        assert driver.live == 0
        if driver.fail_at:  # so many calls are not made
            break
    assert failing > 1


def test_too_little_device_memory_is_an_engine_error(tmp_path: Path) -> None:
    driver = MemoryDriver(memory=100)
    built = write_engine(tmp_path, MANIFEST)
    with pytest.raises(EngineError, match="no 24576 bytes of device memory are left"):  # 8 images of 32 x 32 x 3
        TensorRtEngine(FakeTensorRt(driver, toy_network(ROWS)), driver, built, MANIFEST)
    assert driver.live == 0


def test_tensorrt_rtx_runs_the_same_way_but_for_its_own_graphs(tmp_path: Path) -> None:
    driver = MemoryDriver()
    trt = FakeTensorRt(driver, toy_network(ROWS))
    built = write_engine(tmp_path, MANIFEST, runtime="tensorrt-rtx")
    engine = TensorRtEngine(trt, driver, built, MANIFEST, max_batch=2)
    batch = batch_of(2, seed=0)
    assert_answers(engine.run(batch), batch)
    assert engine.name == "tensorrt-rtx 11.4.0.2 fp16 (Toy 1)"
    assert engine.graphs
    assert driver.calls["capture"] == 0
    for config in trt.configs:
        assert (config.dynamic_shapes_kernel_specialization_strategy, config.cuda_graph_strategy) == ("eager", "whole")
    engine.close()
    assert driver.live == 0


def test_each_size_runs_in_the_profile_that_is_nearest_above_it(tmp_path: Path) -> None:
    driver = MemoryDriver()
    trt = FakeTensorRt(driver, toy_network(ROWS))
    built = write_engine(tmp_path, MANIFEST, profiles=[[1, 8], [1, 2], [3, 4]])
    TensorRtEngine(trt, driver, built, MANIFEST).close()
    assert trt.chosen == {1: 1, 2: 1, 4: 2, 8: 0}


def test_an_engine_runs_as_many_images_as_it_was_built_for(tmp_path: Path) -> None:
    driver = MemoryDriver()
    built = write_engine(tmp_path, MANIFEST, profiles=[[1, 4]])
    trt = FakeTensorRt(driver, toy_network(ROWS))
    with pytest.raises(EngineError, match=r"batches of at most 4, and 16 were asked for.* --max-batch 16`"):
        TensorRtEngine(trt, driver, built, MANIFEST, max_batch=16)
    assert driver.live == 0


def test_the_toy_tells_every_input_apart() -> None:
    # What the tests above stand on: another value of any field of an image is another answer.
    batch = batch_of(2, seed=0)
    expected = toy_answer(batch, ROWS)
    for field in fields(EngineInput):
        value = getattr(batch, field.name).copy()
        value[1:] += 1 if value.dtype.kind in "iu" else np.float32(0.25)
        other = toy_answer(replace(batch, **{field.name: value}), ROWS)
        assert any((a[1] != b[1]).any() for a, b in zip(expected, other, strict=True)), field.name
        for a, b in zip(expected, other, strict=True):
            np.testing.assert_array_equal(a[0], b[0])
