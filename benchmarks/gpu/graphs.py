"""CUDA graphs: the operators are captured once and replayed with other inputs in the same memory."""

from collections.abc import Callable

import torch

from benchmarks.gpu.cases import answers, case_of, compare, to_device
from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.setup import Setup
from calibox_export.kernels.library import KernelLibrary
from calibox_export.kernels.torch_operator import prepare
from tests.support.nms_images import stacked
from tests.support.pool_cases import assert_pooled, generated_pool

Replay = Callable[[], object]
SIZES = ((300, 80, 1), (300, 80, 8), (1000, 1, 8), (3840, 1, 2))  # K, classes, batch


def capture(setup: Setup, step: Callable[[], object]) -> Replay:
    """What replays ``step``, which must write where it wrote before; on the CPU that is ``step`` itself."""
    if setup.host:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a first run outside of the graph: attributes of kernels are set then
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Replay = graph.replay
    return replay


def allocations(setup: Setup) -> tuple[int, ...]:
    """A count that grows with every allocation of torch, and the device's free bytes, which any other lowers."""
    if setup.host:
        return ()
    torch.cuda.synchronize()
    return int(torch.cuda.memory_stats()["allocation.all.allocated"]), torch.cuda.mem_get_info()[0]


def capture_and_replay(setup: Setup, outcome: Outcome) -> None:
    """Replays answer as the reference does, and allocate nothing."""
    rows = outcome.table("Captured once, replayed with new inputs", "operator", "K", "classes", "batch", "replays")
    library = setup.kernels()
    for top_k, classes, batch in setup.pick(SIZES, ((33, 3, 2),)):
        replays = check_replays(setup, library, top_k=top_k, classes=classes, batch=batch)
        rows.append(["CalibratedNMS", top_k, classes, batch, replays])
        setup.keep(outcome)
    rows.append(["PrRoIPool", "", "", 2, check_pool_replays(setup)])
    outcome.sentences.append("No replay allocated memory, of torch's or of the device's.")


def check_replays(setup: Setup, library: KernelLibrary, *, top_k: int, classes: int, batch: int) -> int:
    """How many replays were compared, all with the attributes of the first case."""
    first, *others = (case_of(seed, top_k=top_k, classes=classes, batch=batch) for seed in range(0, 36, 6))
    call = prepare(library, to_device(stacked(first), setup.device), first.attributes)
    replay = capture(setup, lambda: call.launch(stream=setup.stream()))
    for case in (*others, first):
        new_inputs = to_device(stacked(case), setup.device)
        for place, values in zip(call.given, new_inputs, strict=True):
            place.copy_(values)
        for output in call.outputs:
            output.fill_(-7)
        before = allocations(setup)
        replay()
        assert allocations(setup) == before, "a replay allocates memory"
        assert case.attributes == first.attributes
        compare(setup, answers(call.outputs), case)
    return len(others) + 1


def check_pool_replays(setup: Setup) -> int:
    """As `check_replays`, for Precise RoI pooling."""
    library, cases = setup.pooling(), [generated_pool(seed) for seed in range(0, 600, 6)]
    case = cases[0]
    others = [other for other in cases[1:] if other.maps.shape == case.maps.shape]
    maps, rois = (torch.from_numpy(values).to(setup.device) for values in (case.maps, case.rois))
    pooled = torch.empty(0, device=setup.device)

    def step() -> None:
        nonlocal pooled
        pooled = library.pool(maps, rois, case.output_size, case.spatial_scale, stream=setup.stream())

    replay = capture(setup, step)
    for other in others:
        maps.copy_(torch.from_numpy(other.maps))
        rois.copy_(torch.from_numpy(other.rois))
        before = allocations(setup)
        replay()
        assert allocations(setup) == before, "a replay allocates memory"
        assert_pooled(pooled.cpu().numpy(), other)
    assert others
    return len(others)
