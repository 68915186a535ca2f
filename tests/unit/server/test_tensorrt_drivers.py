"""What the TensorRT runner asks of CUDA, of every driver: the one in memory, those of packages, those on a GPU.

Those on a GPU are run by `pytest -m gpu`; the packages' own code is held against stand-ins without one.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest

from calibox_core.engines import EngineError
from calibox_server.cuda.choice import CudaDriverName, open_driver
from calibox_server.cuda.cuda_bindings_driver import CudaBindingsDriver
from calibox_server.cuda.driver import CudaDriver, DriverMissingError
from calibox_server.cuda.pycuda_driver import PycudaDriver
from tests.support.fake_cuda import TOO_MUCH, FakePycuda, FakeRuntimeApi
from tests.support.memory_driver import MemoryDriver

Install = Callable[[str, ModuleType | None], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a module, or its absence, under a name; drivers that were opened before are forgotten."""
    open_driver.cache_clear()
    yield lambda name, module: monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    open_driver.cache_clear()


def module(name: str, **facts: str) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(facts)
    return made


def fake_bindings(install: Install) -> FakeRuntimeApi:
    api = FakeRuntimeApi()
    install("cuda.bindings", module("cuda.bindings", __version__="13.5.0"))
    install("cuda.bindings.runtime", api)
    return api


def fake_pycuda(install: Install) -> FakePycuda:
    package = FakePycuda()
    install("pycuda", module("pycuda", VERSION_TEXT="2026.1"))
    install("pycuda.driver", package)
    return package


def on_a_gpu(wanted: CudaDriverName) -> CudaDriver:
    try:
        return open_driver(wanted)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(
    params=[
        "memory",
        "cuda-bindings over a stand-in",
        "pycuda over a stand-in",
        pytest.param("cuda-bindings", marks=pytest.mark.gpu),
        pytest.param("pycuda", marks=pytest.mark.gpu),
    ]
)
def driver(request: pytest.FixtureRequest, install: Install) -> CudaDriver:
    if request.param == "memory":
        return MemoryDriver()
    if request.param == "cuda-bindings over a stand-in":
        fake_bindings(install)
        return CudaBindingsDriver()
    if request.param == "pycuda over a stand-in":
        fake_pycuda(install)
        return PycudaDriver()
    return on_a_gpu(request.param)


def there_and_back(driver: CudaDriver, rows: int) -> tuple[list[list[float]], list[list[float]]]:
    """The first rows of a matrix, before and after a trip to the device."""
    with driver.current():
        device, stream, event = driver.allocate(48), driver.create_stream(), driver.create_event()
        sent, got = driver.pinned((4, 3), np.float32), driver.pinned((4, 3), np.float32)
        sent[:], got[:] = np.arange(12).reshape(4, 3), -1
        driver.to_device(device, sent[:rows], stream)
        driver.to_host(got[:rows], device, stream)
        driver.record(event, stream)
        driver.synchronize(event)
        found = sent.tolist()[:rows] + [[-1.0] * 3] * (4 - rows), got.tolist()
        driver.destroy_event(event)
        driver.destroy_stream(stream)
        driver.free(device)
        driver.free_pinned(sent)
        driver.free_pinned(got)
    return found


@pytest.mark.parametrize("rows", [0, 1, 3, 4])
def test_what_was_sent_comes_back(driver: CudaDriver, rows: int) -> None:
    sent, got = there_and_back(driver, rows)
    assert got == sent


def test_every_thread_may_work(driver: CudaDriver) -> None:
    with ThreadPoolExecutor(3) as pool:
        for sent, got in pool.map(there_and_back, [driver] * 9, [1, 2, 3] * 3):
            assert got == sent


def test_the_device_is_told(driver: CudaDriver) -> None:
    assert driver.device.name
    assert driver.device.capability.startswith("sm_")
    assert driver.device.memory >= 1000
    assert driver.name.split()[0] in ("memory", "cuda-bindings", "pycuda")


def test_memory_that_is_not_there_is_an_engine_error(driver: CudaDriver) -> None:
    with driver.current(), pytest.raises(EngineError, match=r"(?i)memory"):
        driver.allocate(TOO_MUCH * 2**20)
    sent, got = there_and_back(driver, 2)  # and nothing is broken
    assert got == sent


def test_a_captured_graph_runs_as_often_as_it_is_launched(driver: CudaDriver) -> None:
    if "pycuda" in driver.name:
        pytest.skip("pycuda has no CUDA graphs")
    with driver.current():
        device, stream, event = driver.allocate(4), driver.create_stream(), driver.create_event()
        pinned, got = driver.pinned((4,), np.uint8), driver.pinned((4,), np.uint8)
        pinned[:] = [1, 2, 3, 4]
        driver.to_device(device, pinned, stream)
        driver.record(event, stream)
        driver.synchronize(event)
        pinned[:] = [5, 6, 7, 8]
        graph = driver.capture(stream, lambda: driver.to_device(device, pinned, stream))
        seen = []
        for launches in (0, 1, 2):
            for _ in range(launches):
                driver.launch(graph, stream)
            driver.to_host(got, device, stream)
            driver.record(event, stream)
            driver.synchronize(event)
            seen.append(got.tolist())
        assert seen == [[1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 8]]
        driver.destroy_graph(graph)


def test_a_capture_that_fails_leaves_the_stream_usable(driver: CudaDriver) -> None:
    def work() -> None:
        raise EngineError("the work said no")

    with driver.current():
        stream, device = driver.create_stream(), driver.allocate(4)
        pinned, got = driver.pinned((4,), np.uint8), driver.pinned((4,), np.uint8)
        with pytest.raises(EngineError, match=r"the work said no|has no CUDA graphs"):
            driver.capture(stream, work)
        event = driver.create_event()
        pinned[:] = 9
        driver.to_device(device, pinned, stream)
        driver.to_host(got, device, stream)
        driver.record(event, stream)
        driver.synchronize(event)
        assert got.tolist() == [9, 9, 9, 9]


def test_cuda_bindings_gives_everything_back_and_forgets_errors(install: Install) -> None:
    api = fake_bindings(install)
    driver = CudaBindingsDriver()
    assert (driver.name, driver.device.name, driver.device.capability) == ("cuda-bindings 13.5.0", "Toy 2", "sm_89")
    there_and_back(driver, 2)
    stream = driver.create_stream()
    driver.destroy_graph(driver.capture(stream, lambda: None))
    driver.destroy_stream(stream)
    with pytest.raises(EngineError, match=r"^cudaFree failed: cudaErrorInvalidValue, words about it$"):
        driver.free(driver.allocate(4) + 1)  # type: ignore[arg-type]
    assert api.last_error.name == "cudaSuccess"  # TensorRT would take it for its own
    assert len(api.memory) == 1  # what could not be freed
    assert api.handles == {}


def test_pycuda_gives_everything_back_and_works_inside_its_context_only(install: Install) -> None:
    package = fake_pycuda(install)
    driver = PycudaDriver()
    assert (driver.name, driver.device.name, driver.device.capability) == ("pycuda 2026.1", "Toy 2", "sm_89")
    there_and_back(driver, 2)
    assert package.alive == 0
    with pytest.raises(EngineError, match="invalid device context"):
        driver.create_stream()
    with pytest.raises(EngineError, match="cuMemAlloc failed: out of memory"), driver.current():
        driver.allocate(2 * TOO_MUCH)
    with pytest.raises(EngineError, match="invalid device context"):  # the error above popped the context too
        driver.create_event()


def test_cuda_bindings_comes_first_and_pycuda_where_it_is_missing(install: Install) -> None:
    fake_bindings(install)
    fake_pycuda(install)
    assert open_driver("auto").name.startswith("cuda-bindings")
    assert open_driver("auto") is open_driver("auto")  # one for all models
    assert open_driver("pycuda").name.startswith("pycuda")
    install("cuda.bindings.runtime", None)
    open_driver.cache_clear()
    assert open_driver("auto").name.startswith("pycuda")


def test_without_a_package_one_sentence_says_what_installs_it(install: Install) -> None:
    install("cuda.bindings.runtime", None)
    install("pycuda", None)
    with pytest.raises(
        DriverMissingError, match=r"neither .* nor .* cuda-bindings with: pip install 'calibox\[gpu\]'$"
    ):
        open_driver("auto")
    with pytest.raises(DriverMissingError, match=r"^cuda-bindings cannot be imported .* pip install 'calibox\[gpu\]'$"):
        open_driver("cuda-bindings")
    with pytest.raises(DriverMissingError, match=r"^pycuda cannot be imported .* pip install 'calibox\[gpu\]'$"):
        open_driver("pycuda")


def test_nvidias_package_takes_every_call_and_names_the_error_where_there_is_no_gpu() -> None:
    # What the stand-in cannot know: whether the real functions take what the driver hands them.
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if runtime.cudaGetDeviceCount()[0].value == 0:
        pytest.skip("there is a GPU: the other tests of this module run on it with -m gpu")
    with pytest.raises(
        EngineError, match=r"^no GPU can be used here \(cudaSetDevice failed: cudaError\w+, .*nvidia-smi"
    ):
        CudaBindingsDriver()
    driver = CudaBindingsDriver.__new__(CudaBindingsDriver)
    driver._cuda = runtime
    array, nowhere = np.zeros((3, 4), np.float32), 4096
    calls: dict[str, tuple[object, ...]] = {
        "allocate": (16,),
        "free": (nowhere,),
        "pinned": ((2, 3), np.float32),
        "free_pinned": (array,),
        "create_stream": (),
        "destroy_stream": (nowhere,),
        "to_device": (nowhere, array[:2], nowhere),
        "to_host": (array, nowhere, nowhere),
        "create_event": (),
        "destroy_event": (nowhere,),
        "record": (nowhere, nowhere),
        "synchronize": (nowhere,),
        "capture": (nowhere, lambda: None),
        "launch": (nowhere, nowhere),
        "destroy_graph": (nowhere,),
    }
    for name, arguments in calls.items():
        with pytest.raises(EngineError, match=r"^cuda\w+ failed: cudaError\w+, "):
            getattr(driver, name)(*arguments)
