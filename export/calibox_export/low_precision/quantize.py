"""`calibox quantize`: a bundle of lower precision from one in float32, published only if it answers as well."""

from pathlib import Path

import onnx

from calibox_core.bundle import MODEL_FILE, Bundle, copy_files, new_bundle, next_version, read_bundle, write_manifest
from calibox_core.engines import EngineError
from calibox_core.manifest import LoweredFrom, Manifest
from calibox_core.precision import Precision
from calibox_export.engines.accuracy import Measured, compare, measure
from calibox_export.engines.build import MEASURED, BuildOrder, calibration_feeds, check_loss
from calibox_export.low_precision.half import to_half
from calibox_export.low_precision.int8 import to_int8
from calibox_export.low_precision.stored import check_fp32
from calibox_export.parity import Graph, open_graph


def quantise_bundle(
    bundle: Bundle, order: BuildOrder, *, output: Path | None = None, version: str | None = None
) -> Bundle:
    """Writes ``<output>/<name>/<version>``, whole or not at all.

    Args:
        bundle: in float32.
        order: precision, data and limit.
        output: folder of models; the bundle's own by default.
        version: one more than the highest that is there by default.

    Raises:
        EngineError: the bundle is of lower precision already, no data were named, ONNX Runtime cannot run the result,
            or it loses more than the limit.
        ExportError: no layer of the graph can change.
        DatasetError: the data cannot be read.
        BundleError: the version is taken.
    """
    if order.folder is None:
        raise EngineError("a bundle of lower precision is published only after it was measured: name data with --data")
    model = onnx.load(bundle.model_path)
    check_fp32(model)
    models = output or bundle.folder.parent.parent
    old = bundle.manifest
    destination = models / old.name / (version or next_version(models / old.name))
    with new_bundle(destination) as scratch:
        graph = lowered(model, bundle, order)
        _set_version(graph, destination.name)
        onnx.save(graph, scratch / MODEL_FILE)
        copy_files(bundle, scratch, leave_out={MODEL_FILE})
        low = _open(scratch / MODEL_FILE, order.precision)
        before, after = (measure(side, old, order.folder, MEASURED) for side in (open_graph(bundle.model_path), low))
        accuracy = compare(before, after, dataset=f"{order.dataset} {MEASURED}")
        check_loss(accuracy, order)
        origin = LoweredFrom(version=old.version, model_sha256=old.files[MODEL_FILE], accuracy=accuracy)
        write_manifest(scratch, _manifest(old, order, origin, after, version=destination.name))
    return read_bundle(destination)


def lowered(model: onnx.ModelProto, bundle: Bundle, order: BuildOrder) -> onnx.ModelProto:
    """The graph in the precision of the order."""
    if order.precision == "int8":
        return to_int8(model, calibration_feeds(bundle, order))
    if order.precision == "fp32":
        raise EngineError("the bundle is in fp32 already: choose --precision from fp16, bf16, int8")
    return to_half(model, order.precision)


def _open(path: Path, precision: Precision) -> Graph:
    try:
        return open_graph(path)
    except Exception as error:  # the runtime's own types vary from version to version
        raise EngineError(
            f"ONNX Runtime cannot run this graph in {precision} on this CPU, and what cannot be measured is not "
            f"published: build an engine in {precision} with `calibox build` instead ({error})"
        ) from error


def _set_version(graph: onnx.ModelProto, version: str) -> None:
    for entry in graph.metadata_props:
        if entry.key == "version":
            entry.value = version


def _manifest(old: Manifest, order: BuildOrder, origin: LoweredFrom, after: Measured, *, version: str) -> Manifest:
    split = MEASURED if order.dataset == old.dataset.name else f"{order.dataset} {MEASURED}"
    changed = {
        "version": version,
        "description": f"{old.description} In {order.precision}.".strip(),
        "precision": order.precision,
        "lowered_from": origin,
        "measured": {split: dict(after.metrics)},
        "parity": None,  # of another graph
    }
    return Manifest.model_validate(old.model_dump() | changed)
