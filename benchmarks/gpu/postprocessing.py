"""From sigmoid outputs to padded detections: ours, whole and in parts, against torch and torchvision."""

import traceback

import torch

from benchmarks.gpu.graphs import capture
from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.rounds import Step, in_turns
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.torch_postprocessing import Scored, TorchSteps, candidates, kept, scored
from calibox_export.kernels.library import KernelLibrary, Part
from calibox_export.kernels.torch_operator import prepare, run_on_tensors
from tests.support.nms_images import PlainAttributes

BATCHES, CLASSES = (1, 8, 32), 80
IOU_THRESHOLD = 0.5
OURS = ("ours, with a CUDA graph", "ours, launched", "selection alone", "suppression alone")
_COLUMNS = ("step", "batch", "ms, median [range]", "times ours with a graph")


def time_anchors(setup: Setup, outcome: Outcome, anchors: int) -> None:
    """One table: batches of one number of anchors and 80 classes."""
    here = setup.pick(anchors, anchors // 100)
    rounds, attributes = setup.pick(40, 2), attributes_of(setup)
    outcome.sentences.append(
        f"K = {attributes.pre_nms_top_k}, N = {attributes.max_detections}, float32, geometric fusion, {rounds} rounds, "
        "in turns. 'ours, launched' allocates outputs and workspace each time; the parts use memory at hand."
    )
    rows = outcome.table(f"{here:,} anchors, {CLASSES} classes", *_COLUMNS)
    for batch in setup.pick(BATCHES, (1, 2)):
        given = scored(setup.device, batch=batch, anchors=here, classes=CLASSES)
        steps = our_steps(setup, setup.kernels(), given) | _torch_steps(setup, outcome, given)
        times = in_turns(setup, steps, rounds=rounds)
        rows += [[name, batch, times[name].cell(), times[name].over(times[OURS[0]])] for name in steps]
        outcome.figures |= {f"{name}, batch {batch}": one.rounds for name, one in times.items()}
        outcome.facts[f"batch {batch}: our detections that torch's steps also have"] = f"{_agreement(setup, given):.2%}"
        setup.keep(outcome)


def attributes_of(setup: Setup) -> PlainAttributes:
    """K 1000 and N 100, as a bundle has them."""
    return setup.pick(PlainAttributes(), PlainAttributes(pre_nms_top_k=40, max_detections=10))


def our_steps(setup: Setup, library: KernelLibrary, given: Scored) -> dict[str, Step]:
    """The whole by a graph and launched one by one, then its parts."""
    attributes = attributes_of(setup)
    call = prepare(library, given.inputs(), attributes)
    graph = capture(setup, lambda: call.launch(stream=setup.stream()))
    graph()

    def launched() -> None:
        run_on_tensors(library, given.inputs(), attributes, stream=setup.stream())

    def part(which: Part) -> Step:
        return lambda: call.launch(stream=setup.stream(), part=which)

    return dict(zip(OURS, (graph, launched, part(Part.SELECTION), part(Part.SUPPRESSION)), strict=True))


def _torch_steps(setup: Setup, outcome: Outcome, given: Scored) -> dict[str, Step]:
    plain, compiled = TorchSteps(), _compiled(setup)
    steps = {"torch and batched_nms": _detecting(setup, plain, given)}
    try:
        _detecting(setup, compiled, given)()
    except Exception:  # whatever it is: the other steps are timed without it
        outcome.sentences.append(f"torch.compile fails:\n\n```text\n{traceback.format_exc()[-1500:]}\n```")
        return steps
    return {**steps, "the same by torch.compile": _detecting(setup, compiled, given)}


def _compiled(setup: Setup) -> TorchSteps:
    """Both functions for one shape; the host's run has no need of the code generator."""
    torch._dynamo.reset()  # or a second shape would count as a changed one
    backend = setup.pick("inductor", "eager")
    return TorchSteps(
        torch.compile(candidates, backend=backend, dynamic=False), torch.compile(kept, backend=backend, dynamic=False)
    )


def _detecting(setup: Setup, steps: TorchSteps, given: Scored) -> Step:
    return lambda: steps.detections(given, attributes_of(setup), IOU_THRESHOLD)


def _agreement(setup: Setup, given: Scored) -> float:
    """The share of our boxes that are among theirs; not all are: batched_nms moves classes apart by adding to boxes."""
    ours = run_on_tensors(setup.kernels(), given.inputs(), attributes_of(setup), stream=setup.stream())
    theirs_BN4 = TorchSteps().detections(given, attributes_of(setup), IOU_THRESHOLD)[1]
    found_BN = (ours[1][:, :, None] == theirs_BN4[:, None]).all(dim=3).any(dim=2)
    return float(found_BN.float().mean())
