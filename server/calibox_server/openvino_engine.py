"""OpenVINO on the CPU: one compiled model, a stream for each run that may proceed beside others."""

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.engines import BuiltEngine, EngineError
from calibox_core.openvino_package import HINTS, IR_FILE, import_openvino
from calibox_server.engine import CandidateOutput, EngineInput, FetchedByName
from calibox_server.onnxruntime_provider import CPU_MAX_BATCH


class OpenVinoEngine(FetchedByName):
    """Runs an engine that `calibox build` made of a bundle.

    Args:
        built: its folder and record, checked against the bundle.
        instances: runs side by side, each in a stream of its own; they share the weights.
        intra_op_threads: threads inside each run.
        max_batch: most images in one run; None for one. One is compiled for that size alone, which is faster
            (docs/results/engines.md).

    Raises:
        EngineError: OpenVINO is missing, older than what built the engine, or this CPU lacks what the engine needs.
    """

    def __init__(
        self, built: BuiltEngine, *, instances: int = 1, intra_op_threads: int = 1, max_batch: int | None = None
    ) -> None:
        ov = import_openvino()
        core = ov.Core()
        version = ov.__version__.split("-")[0]
        check_fits(built, version=version, capabilities=core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        self.max_batch = max_batch or CPU_MAX_BATCH
        model = core.read_model(built.folder / IR_FILE)
        if self.max_batch == 1:
            model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": HINTS[built.record.precision],
                "NUM_STREAMS": instances,
                "INFERENCE_NUM_THREADS": instances * intra_op_threads,
                "ENABLE_CPU_PINNING": False,  # decoding and serving share the cores
            },
        )
        # What the graph does not read is left out; a port also bears the names of copies, its node only its own.
        self._inputs = [port.get_node().get_friendly_name() for port in compiled.inputs]
        there = {name for port in compiled.outputs for name in port.names}
        self.tells_candidates = there.issuperset(CandidateOutput._fields)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(instances):
            self._requests.put(compiled.create_infer_request())
        self.name = f"openvino {version} {built.record.precision} (CPU)"
        self.on_cpu = True
        self.instances = self.in_flight = instances

    def _fetch(self, batch: EngineInput, names: Sequence[str]) -> list[NDArray[Any]]:
        """Copies of outputs; what an engine computes and nobody names stays where it is."""
        request = self._requests.get()
        try:
            found = request.infer({name: getattr(batch, name) for name in self._inputs}, share_inputs=True)
            return [np.array(found[name]) for name in names]
        finally:
            self._requests.put(request)


def check_fits(built: BuiltEngine, *, version: str, capabilities: list[str]) -> None:
    """Whether this runtime on this CPU can run the engine as it was meant.

    Raises:
        EngineError: one sentence with what to do.
    """
    record = built.record
    mend = f"build it again on this machine with `calibox build`, into {built.folder}"
    if _numbers(version) < _numbers(record.runtime_version):
        raise EngineError(
            f"{built.folder} was built by OpenVINO {record.runtime_version}, and {version} is installed: raise it, "
            f"or {mend}"
        )
    lacking = [need for need in record.needs if need not in capabilities]
    if lacking:
        raise EngineError(f"{built.folder} needs {', '.join(lacking)} arithmetic, which this CPU does not have: {mend}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
