"""OpenVINO's intermediate representation of a bundle's graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import inliner

from calibox_core.engines import EngineError, Runtime
from calibox_core.openvino_package import HINTS, IR_FILE, import_openvino
from calibox_core.precision import Precision
from calibox_export.engines.backend import Facts, Work
from calibox_export.low_precision.int8 import to_int8, with_signed_inputs
from calibox_export.low_precision.stored import check_fp32
from calibox_export.parity import Arrays, Graph

if TYPE_CHECKING:
    import openvino as ov

# What the CPU must be able to do; without it OpenVINO would quietly compute in float32.
NEEDS: dict[Precision, tuple[str, ...]] = {"fp32": (), "bf16": ("BF16",), "int8": ("INT8",)}


class OpenVinoBackend:
    """OpenVINO on this machine's CPU."""

    runtime: Runtime = "openvino"
    precisions: tuple[Precision, ...] = tuple(NEEDS)

    def version(self) -> str:
        """Without the build number."""
        return str(import_openvino().__version__).split("-")[0]

    def check(self, precision: Precision) -> None:
        """Asks the CPU."""
        check_capabilities(precision)

    def write(self, work: Work, folder: Path) -> Facts:
        """model.xml and model.bin."""
        write_ir(graph_of(work), folder)
        return Facts(needs=NEEDS[work.precision])

    def open(self, folder: Path, precision: Precision, *, as_served: bool = False) -> Graph:
        """On this CPU."""
        return open_ir(folder / IR_FILE, precision, as_served=as_served)


def check_capabilities(precision: Precision) -> None:
    """Asks the CPU.

    Raises:
        EngineError: it computes this precision in float32.
    """
    found = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    lacking = [need for need in NEEDS[precision] if need not in found]
    if lacking:
        raise EngineError(
            f"this CPU has no {', '.join(lacking)} arithmetic (OpenVINO says it has {', '.join(found)}): an engine in "
            f"{precision} would be no faster here; take --precision fp32"
        )


def openvino_model(graph: onnx.ModelProto, *, ties_in_order: bool = False) -> "ov.Model":
    """The graph in OpenVINO. Functions of ours are written out first, which it does not do by itself.

    Args:
        graph: of a bundle, or of the operator alone.
        ties_in_order: whether equal keys keep the order of their index, as ONNX's TopK does. OpenVINO's stable TopK
            is so slow that the default model takes 2.6 times as long with it (docs/results/engines.md), so engines
            are built without: of candidates with exactly the same key either may come first.
    """
    inlined = inliner.inline_local_functions(graph)
    model: ov.Model = import_openvino().Core().read_model(inlined.SerializeToString(), b"")
    if ties_in_order:
        for node in model.get_ops():
            if node.get_type_name() == "TopK":
                _replace_by_stable(node)
    return model


def _replace_by_stable(node: Any) -> None:
    from openvino import opset11

    facts = node.get_attributes()
    order = (facts["axis"], facts["mode"], facts["sort"], facts["index_element_type"])
    stable = opset11.topk(*node.input_values(), *order, stable=True)
    for old, new in zip(node.outputs(), stable.outputs(), strict=True):
        old.replace(new)


def graph_of(work: Work) -> onnx.ModelProto:
    """The bundle's graph, with the pairs that OpenVINO wants where it is to be, or is already, in INT8."""
    graph = onnx.load(work.bundle.model_path)
    stored = check_fp32(graph, but="int8" if work.precision == "int8" else None)
    if work.precision != "int8":
        return graph
    return with_signed_inputs(graph if stored == "int8" else to_int8(graph, work.calibration()))


def write_ir(graph: onnx.ModelProto, folder: Path) -> None:
    """The graph as model.xml and model.bin, weights as they are."""
    import_openvino().save_model(openvino_model(graph), folder / IR_FILE, compress_to_fp16=False)


def open_ir(path: Path, precision: Precision, *, as_served: bool = False) -> Graph:
    """An engine's file, to run on the CPU: every output by name.

    Args:
        path: of the file.
        precision: of the arithmetic.
        as_served: compile it for batches of one on one thread, as the server does by default. OpenVINO then chooses
            other layouts, and what it rounds to bfloat16 on the way.
    """
    ov = import_openvino()
    core, hints = ov.Core(), {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    model = core.read_model(path)
    if as_served:
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        hints |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    compiled = core.compile_model(model, "CPU", hints)
    request, names = compiled.create_infer_request(), input_names(compiled)

    def run(feeds: Arrays) -> Arrays:
        found = request.infer({name: feeds[name] for name in names})
        return {output.any_name: value.copy() for output, value in found.items()}

    return run


def input_names(model: "ov.Model | ov.CompiledModel") -> list[str]:
    """Inputs that an engine reads: its file leaves out what the graph has no use for.

    A port also bears the names of what is only a copy of it, so its node's own name is taken.
    """
    return [one.get_node().get_friendly_name() for one in model.inputs]
