"""A plain detector's ONNX file as a calibox bundle, and what the wrapper costs.

    python -m benchmarks.peers.wrap DETECTOR.onnx --output DIR [--name NAME] [--operator]
    python -m benchmarks.peers.wrap DETECTOR.onnx --cost

The detector takes float32 `[B, 3, H, W]` RGB in 0..1 and answers boxes `[B, 100, 4]`, scores `[B, 100]` (falling) and
labels `[B, 100]` int64, without suppression: what servers are commonly compared with. Its answers stay what they are:
the localization score is 1, and behind its rows stands the score threshold. `--operator` attaches CalibratedNMS too,
which removes nothing at an IoU threshold of 1. `--cost` measures the graphs on one thread, in turns.

Letters: B images.
"""

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import compose, parser, version_converter

from calibox_core import __version__
from calibox_core.bundle import MODEL_FILE, new_bundle, write_manifest
from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import (
    OPSET,
    ClassInfo,
    DatasetInfo,
    InputSpec,
    Manifest,
    Provenance,
    QualitySpec,
    Thresholds,
)
from calibox_core.nms import NmsAttributes
from calibox_core.operator_names import DETECTION_OUTPUTS
from calibox_export.graph import IR_VERSION, attach_calibrated_nms, bundle_model, contract_inputs

CLASSES = 3
PREFIX = "bare/"
THRESHOLDS = Thresholds(score=0.5, iou=1.0)


def bundle_graph(
    detector: onnx.ModelProto, attributes: NmsAttributes, *, classes: int, operator: bool
) -> onnx.ModelProto:
    """The graph of a bundle around a detector as this module says, of any opset that ONNX converts to ours.

    Args:
        detector: the whole file.
        attributes: rows of the outputs, and of the operator.
        classes: that the labels count, from 0.
        operator: whether CalibratedNMS stands behind, or only the score threshold.
    """
    body = compose.add_prefix(version_converter.convert_version(detector, OPSET), PREFIX)
    body.ir_version = IR_VERSION
    _, _, height, width = _shape(body.graph.input[0])
    rows = attributes.max_detections
    # Bytes are transposed, not floats: a quarter of the memory to move. Then one pass makes floats of them and scales.
    front = _part(f"""
      front (uint8[batch, {height}, {width}, 3] images) => (float[batch, 3, {height}, {width}] planes) {{
        per_level = Constant <value_float = {1 / 255!r}> ()
        planar = Transpose <perm = [0, 3, 1, 2]> (images)
        planes = DequantizeLinear(planar, per_level)
      }}""")
    behind = _part(_class_planes(rows, classes) if operator else _thresholds(rows))
    whole = compose.merge_models(front, body, [("planes", body.graph.input[0].name)])
    found = zip(whole.graph.output, ("found_boxes", "found_scores", "found_labels"), strict=True)
    whole = compose.merge_models(whole, behind, [(out.name, name) for out, name in found])
    if operator:
        return attach_calibrated_nms(whole, attributes)
    inputs = contract_inputs(height=height, width=width)
    return bundle_model(whole, [], [], inputs=inputs, attributes=attributes)


def _class_planes(rows: int, classes: int) -> str:
    """What CalibratedNMS reads: p is the score in the label's column and 0 in the others, q is 1."""
    return f"""
      behind (float[batch, {rows}, 4] found_boxes, float[batch, {rows}] found_scores,
          int64[batch, {rows}] found_labels, float[batch, 3] fusion) => (
          float[batch, {rows}, 4] boxes, float[batch, {rows}, {classes}] p, float[batch, {rows}, 1] q) {{
        classes = Constant <value_ints = [{", ".join(map(str, range(classes)))}]> ()
        last = Constant <value_ints = [2]> ()
        none = Constant <value_float = 0.0> ()
        one = Constant <value_float = 1.0> ()
        label_column = Unsqueeze(found_labels, last)
        score_column = Unsqueeze(found_scores, last)
        is_class = Equal(label_column, classes)
        p = Where(is_class, score_column, none)
        q_shape = Shape(score_column)
        q = Expand(one, q_shape)
        boxes = Identity(found_boxes)
      }}"""


def _thresholds(rows: int) -> str:
    """The outputs of a bundle from rows that lie in the order of their scores already."""
    return f"""
      behind (float[batch, {rows}, 4] found_boxes, float[batch, {rows}] found_scores, int64[batch, {rows}] found_labels,
          float[batch] score_threshold) => (
          int32[batch] num_detections, float[batch, {rows}, 4] boxes, int32[batch, {rows}] labels,
          float[batch, {rows}] classification_scores, float[batch, {rows}] localization_scores,
          float[batch, {rows}] scores, float[batch, {rows}, 4] candidate_boxes, int32[batch, {rows}] candidate_labels,
          float[batch, {rows}] candidate_classification_scores,
          float[batch, {rows}] candidate_localization_scores) {{
        column = Constant <value_ints = [1]> ()
        one = Constant <value_float = 1.0> ()
        limit = Unsqueeze(score_threshold, column)
        above = GreaterOrEqual(found_scores, limit)
        above_ones = Cast <to = 6> (above)
        num_detections = ReduceSum <keepdims = 0> (above_ones, column)
        boxes = Identity(found_boxes)
        labels = Cast <to = 6> (found_labels)
        classification_scores = Identity(found_scores)
        scores = Identity(found_scores)
        shape = Shape(found_scores)
        localization_scores = Expand(one, shape)
        candidate_boxes = Identity(found_boxes)
        candidate_labels = Identity(labels)
        candidate_classification_scores = Identity(found_scores)
        candidate_localization_scores = Identity(localization_scores)
      }}"""


def _part(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>{text}')


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def wrap(detector: Path, output: Path, *, name: str, classes: int = CLASSES, operator: bool = False) -> Path:
    """Writes the bundle ``output/name/1`` and returns its folder; `bundle_graph` explains the rest.

    Raises:
        BundleError: it is there already.
    """
    plain = onnx.load(detector)
    rows = _shape(plain.graph.output[0])[1]
    attributes = NmsAttributes(candidate_floor=0, pre_nms_top_k=rows, max_detections=rows)
    folder = output / name / "1"
    with new_bundle(folder) as scratch:
        onnx.save(bundle_graph(plain, attributes, classes=classes, operator=operator), scratch / MODEL_FILE)
        _, _, height, width = _shape(plain.graph.input[0])
        write_manifest(scratch, _manifest(InputSpec(height=height, width=width), attributes, name, classes))
    return folder


def _manifest(size: InputSpec, attributes: NmsAttributes, name: str, classes: int) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        description="A detector without a contract of its own.",
        classes=tuple(ClassInfo(name=f"class-{i}", category_id=i) for i in range(classes)),
        input=size,
        fusion=Fusion(name=FusionName.CLASSIFICATION),
        thresholds=THRESHOLDS,
        nms=attributes,
        quality=QualitySpec(method="none", target="1"),
        dataset=DatasetInfo(name="none", license="none", train_images=0, val_images=0, sha256="0" * 64),
        provenance=Provenance(
            recipe_name="none",
            recipe={},
            commit="unknown",
            seed=0,
            calibox_version=__version__,
            torch_version="unknown",
            created=datetime.now(UTC),
        ),
    )


def cost(detector: Path, *, rounds: int = 40, runs: int = 10) -> str:
    """Lines: milliseconds of CPU per image of the detector alone, its input made ready, and of both bundles."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as scratch:
        bundles = [wrap(detector, Path(scratch), name=f"wrapped-{flag}", operator=flag) for flag in (False, True)]
        paths = (detector, *(folder / MODEL_FILE for folder in bundles))
        sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]
    _, _, height, width = sessions[0].get_inputs()[0].shape
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    asked = [({"images": planes}, None), *[(_request(pixels), DETECTION_OUTPUTS)] * 2]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, (feeds, outputs), kept in zip(sessions, asked, times, strict=True):
            started = time.process_time()
            for _ in range(runs):
                session.run(outputs, feeds)
            kept.append((time.process_time() - started) / runs * 1e3)
    return _lines(detector.stem, times)


def _lines(name: str, times: list[list[float]]) -> str:
    alone = times[0]
    lines = [f"{name}: {statistics.median(alone):.2f} ms alone, median of {len(alone)}"]
    for title, wrapped in zip(("thresholds", "CalibratedNMS"), times[1:], strict=True):
        more = [w - a for a, w in zip(alone, wrapped, strict=True)]
        quartiles = statistics.quantiles(more)
        lines.append(
            f"  with {title} behind: {quartiles[1]:+.2f} ms, half of the pairs {quartiles[0]:+.2f}..{quartiles[2]:+.2f}"
        )
    return "\n".join(lines)


def _request(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of the whole graph as the server sends them for one image that asks for nothing."""
    return {
        "images": pixels,
        "fusion": np.array([[1, 0, 0]], np.float32),
        "score_threshold": np.array([THRESHOLDS.score], np.float32),
        "iou_threshold": np.array([THRESHOLDS.iou], np.float32),
        "refine_steps": np.zeros(1, np.int32),
    }


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("detector", type=Path, help="the detector's ONNX file")
    parse.add_argument("--output", type=Path, help="folder of models; the bundle becomes OUTPUT/NAME/1")
    parse.add_argument("--name", help="of the model; the file's by default")
    parse.add_argument("--operator", action="store_true", help="with CalibratedNMS, which suppresses nothing")
    parse.add_argument("--cost", action="store_true", help="measure the wrapper instead")
    options = parse.parse_args()
    if options.cost:
        print(cost(options.detector))
    elif options.output is None:
        parse.error("where shall the bundle be? name a folder with --output, or measure with --cost")
    else:
        name = options.name or options.detector.stem
        print(wrap(options.detector, options.output, name=name, operator=options.operator))


if __name__ == "__main__":
    main()
