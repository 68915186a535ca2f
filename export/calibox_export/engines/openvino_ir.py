"""OpenVINO's intermediate representation of a bundle's graph; INT8 by NNCF."""

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import inliner

from calibox_core.engines import EngineError, Precision, Runtime
from calibox_export.engines.backend import Facts, Work
from calibox_export.parity import Arrays, Graph

if TYPE_CHECKING:
    import openvino as ov

IR_FILE = "model.xml"  # and model.bin beside it
# What the CPU must be able to do; without it OpenVINO would quietly compute in float32.
NEEDS: dict[Precision, tuple[str, ...]] = {"fp32": (), "bf16": ("BF16",), "int8": ("INT8",)}
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Layers that the quantisation leaves in float32 are those whose outputs no further layer smooths: the last convolutions
# and products before boxes, scores and qualities.
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")


def import_openvino() -> Any:
    """The package.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f"OpenVINO cannot be imported ({error}); install it with: pip install 'calibox[openvino]'"
        ) from error
    return openvino


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
        write_ir(work.bundle.model_path, folder)
        if work.precision == "int8":
            quantise_ir(folder, work.calibration())
        return Facts(needs=NEEDS[work.precision])

    def open(self, folder: Path, precision: Precision) -> Graph:
        """On this CPU."""
        return open_ir(folder / IR_FILE, precision)


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


def write_ir(onnx_file: Path, folder: Path) -> None:
    """The graph as model.xml and model.bin, weights as they are."""
    _save(openvino_model(onnx.load(onnx_file)), folder)


def quantise_ir(folder: Path, feeds: Iterable[Arrays]) -> None:
    """Puts the INT8 form of the graph in ``folder`` in its place.

    Raises:
        EngineError: NNCF is not installed.
    """
    # From the file, not from the model that was written: NNCF stumbles over nodes that nothing reads. The weights of
    # what was read stay mapped to their file, which must not change meanwhile.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _save(_quantised(import_openvino().Core().read_model(folder / IR_FILE), feeds), Path(scratch))
        for path in Path(scratch).iterdir():
            path.replace(folder / path.name)


def _save(model: "ov.Model", folder: Path) -> None:
    import_openvino().save_model(model, folder / IR_FILE, compress_to_fp16=False)


def open_ir(path: Path, precision: Precision) -> Graph:
    """An engine's file, to run on the CPU: every output by name."""
    ov = import_openvino()
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[precision]})
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


def _quantised(model: "ov.Model", feeds: Iterable[Arrays]) -> "ov.Model":
    """INT8 weights and activations by the ranges that the feeds show; the last layers stay as they are."""
    try:
        with _quiet():
            import nncf
    except ImportError as error:
        raise EngineError(
            f"NNCF cannot be imported ({error}); install it with: pip install 'calibox[quantize]'"
        ) from error
    names = input_names(model)
    examples = [{name: one[name] for name in names} for one in feeds]
    with _quiet():
        found: ov.Model = nncf.quantize(
            model,
            nncf.Dataset(examples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(examples),
            ignored_scope=nncf.IgnoredScope(names=kept_in_float(model)),
        )
    return found


def kept_in_float(model: "ov.Model") -> list[str]:
    """Names of the last layers, and of everything between them and the results."""
    waiting: list[Any] = list(model.get_results())
    seen: dict[str, Any] = {}
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen[node.get_friendly_name()] = node
        if not _is_layer(node):
            waiting += [value.get_source_output().get_node() for value in node.inputs()]
    return [name for name, node in seen.items() if node.get_type_name() not in ("Parameter", "Constant", "Result")]


def _is_layer(node: Any) -> bool:
    """Whether weights multiply something: the operator's own products have none."""
    if node.get_type_name() not in _LAYERS:
        return False
    return any(value.get_source_output().get_node().get_type_name() == "Constant" for value in node.inputs())


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF reports each use to its makers' statistics unless told that it runs in a test; and it says much."""
    os.environ.setdefault("NNCF_CI", "1")
    logger = logging.getLogger("nncf")
    before, logger.level = logger.level, logging.ERROR
    try:
        yield
    finally:
        logger.level = before
