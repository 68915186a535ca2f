"""The CUDA in memory finds what a GPU would punish at random: shown on work that is done wrongly on purpose."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_core.engines import EngineError
from calibox_core.manifest import InputSpec
from calibox_core.nms import NmsAttributes
from calibox_server.engine import EngineOutput, example_batch
from calibox_server.tensorrt import slot as slots
from calibox_server.tensorrt.engine import TensorRtEngine
from calibox_server.tensorrt.slot import Slot
from tests.support.fake_tensorrt import FakeTensorRt, toy_answer, toy_network, write_engine
from tests.support.manifests import small_manifest
from tests.support.memory_driver import POISON, MemoryDriver, MisuseError

ROWS = 5
MANIFEST = small_manifest(input=InputSpec(height=32, width=32), nms=NmsAttributes(max_detections=ROWS))


def opened(folder: Path, driver: MemoryDriver) -> TensorRtEngine:
    built = write_engine(folder, MANIFEST)
    return TensorRtEngine(FakeTensorRt(driver, toy_network(ROWS)), driver, built, MANIFEST, max_batch=2)


def abandoned(folder: Path, driver: MemoryDriver) -> TensorRtEngine:
    """An engine that is not closed when it is let go, as a test breaks it first."""
    engine = opened(folder, driver)
    engine._end.detach()
    return engine


def run_wrong(engine: TensorRtEngine) -> str:
    """What a few runs end with: "" where every answer is right."""
    for size in (2, 1, 2, 2):
        batch = example_batch(MANIFEST, size)
        try:
            found = engine.run(batch)
        except (MisuseError, EngineError) as error:
            return str(error)
        if any((a != b).any() for a, b in zip(found, toy_answer(batch, ROWS), strict=True)):
            return "a wrong answer"
    return ""


def test_the_runner_as_it_is_passes(tmp_path: Path) -> None:
    driver = MemoryDriver()
    engine = opened(tmp_path, driver)
    assert run_wrong(engine) == ""
    engine.close()
    assert driver.live == 0


def test_a_missing_wait_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = abandoned(tmp_path, MemoryDriver())
    monkeypatch.setattr(Slot, "wait", lambda self: None)
    assert run_wrong(engine) == "a wrong answer"  # poison: the copies never ran


def test_a_wait_for_the_run_before_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = abandoned(tmp_path, MemoryDriver())

    def wait(self: Slot) -> None:  # the order of the two calls is wrong
        self._driver.synchronize(self._done)
        self._driver.record(self._done, self._stream)

    monkeypatch.setattr(Slot, "wait", wait)
    assert run_wrong(engine) == "a wrong answer"


def test_an_answer_that_is_a_view_of_the_slot_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(tmp_path, MemoryDriver())
    real = Slot.run

    def run(self: Slot, batch: Any) -> EngineOutput:
        count = len(real(self, batch).num_detections)
        return EngineOutput(*(self._host[name][:count] for name in EngineOutput._fields))

    monkeypatch.setattr(Slot, "run", run)
    batch = example_batch(MANIFEST, 2)
    found = engine.run(batch)
    engine.close()
    assert all((values.view(np.uint8) == POISON).all() for values in found)  # the slot's memory is gone


def test_pinned_memory_that_is_written_under_way_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = abandoned(tmp_path, MemoryDriver())
    real = Slot._compute

    def compute(self: Slot, bucket: int) -> None:
        real(self, bucket)
        self._host["images"][:] = 7  # the next batch, too early

    monkeypatch.setattr(Slot, "_compute", compute)
    assert run_wrong(engine) == "a pinned array was written before the copy from it was done"


def test_results_that_are_written_under_way_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = abandoned(tmp_path, MemoryDriver())
    real = Slot.wait

    def wait(self: Slot) -> None:
        self._host["labels"][:] = 0
        real(self)

    monkeypatch.setattr(Slot, "wait", wait)
    assert run_wrong(engine) == "a pinned array was written before the copy into it was done"


def test_a_slot_that_is_lent_twice_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = MemoryDriver()
    engine = abandoned(tmp_path, driver)
    with driver.current():
        second = driver.create_stream()
    real = Slot._compute

    def compute(self: Slot, bucket: int) -> None:  # as if another thread computed on the same buffers
        real(self, bucket)
        driver.to_device(self._device["images"], self._host["images"], second)

    monkeypatch.setattr(Slot, "_compute", compute)
    assert run_wrong(engine) == "two streams use the same memory without waiting for each other"


def test_contexts_that_share_scratch_memory_across_slots_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = MemoryDriver()
    shared: list[Any] = []
    real = Slot._own_memory

    def own(self: Slot, size: int) -> Any:
        if size != 64:  # not scratch memory
            return real(self, size)
        shared.append(real(self, size))
        return shared[0]

    monkeypatch.setattr(Slot, "_own_memory", own)
    engine = opened(tmp_path, driver)
    with engine._rack.lend() as one, engine._rack.lend() as other, driver.current():
        one._compute(1)
        with pytest.raises(MisuseError, match="two streams use the same memory"):
            other._compute(1)
        one.wait()
    engine.close()


@pytest.mark.parametrize(
    ("forgotten", "left"), [("free", 26), ("free_pinned", 22), ("destroy_stream", 2), ("destroy_event", 2)]
)
def test_a_leak_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str, left: int) -> None:
    driver = MemoryDriver()
    monkeypatch.setattr(driver, forgotten, lambda handle: None)
    opened(tmp_path, driver).close()
    # Of 2 slots: 11 tensors each, on both sides, and on the device one that nobody reads, and scratch memory.
    assert driver.live == left


def test_memory_that_is_freed_too_early_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = MemoryDriver()
    engine = abandoned(tmp_path, driver)
    real = Slot._compute

    def compute(self: Slot, bucket: int) -> None:
        real(self, bucket)
        driver.free(self._device["images"])

    monkeypatch.setattr(Slot, "_compute", compute)
    assert run_wrong(engine) == "memory was freed before the work on it was done"


def test_memory_that_is_used_after_it_was_freed_is_found(tmp_path: Path) -> None:
    driver = MemoryDriver()
    engine = abandoned(tmp_path, driver)
    with engine._rack.lend() as slot, driver.current():
        slot.close()
    assert run_wrong(engine).endswith("was freed already, or never made")


def test_work_in_a_thread_without_a_context_is_found(tmp_path: Path) -> None:
    engine = abandoned(tmp_path, MemoryDriver())
    with engine._rack.lend() as slot, pytest.raises(MisuseError, match="was called outside `current`"):
        slot.run(example_batch(MANIFEST, 1))


def test_waiting_while_a_graph_is_captured_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(self: Slot, bucket: int) -> None:
        self._driver.capture(self._stream, self.wait)

    monkeypatch.setattr(slots.Slot, "capture", capture)
    with pytest.raises(MisuseError, match="waiting is forbidden while a stream is captured"):
        opened(tmp_path, MemoryDriver())


@contextmanager
def one_stream() -> Iterator[tuple[MemoryDriver, Any]]:
    driver = MemoryDriver()
    with driver.current():
        yield driver, driver.create_stream()


def test_copies_need_pinned_contiguous_memory() -> None:
    with one_stream() as (driver, stream):
        device, pinned = driver.allocate(16), driver.pinned((4, 4), np.uint8)
        driver.to_device(device, pinned[1:3], stream)
        with pytest.raises(MisuseError, match="contiguous"):
            driver.to_device(device, pinned[:, :2], stream)
        with pytest.raises(MisuseError, match="needs a pinned array"):
            driver.to_device(device, np.zeros(16, np.uint8), stream)


def test_nothing_runs_before_somebody_waits() -> None:
    ran: list[int] = []

    def step(number: int) -> Callable[[], None]:
        return lambda: ran.append(number)

    with one_stream() as (driver, stream):
        event = driver.create_event()
        driver.synchronize(event)  # marks nothing yet
        driver.kernel(stream, step(1), reads=[], writes=[])
        driver.record(event, stream)
        driver.kernel(stream, step(2), reads=[], writes=[])
        assert ran == []
        driver.synchronize(event)
        assert ran == [1]
        driver.record(event, stream)
        driver.synchronize(event)
        assert ran == [1, 2]
