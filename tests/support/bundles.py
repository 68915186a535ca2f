"""A small real bundle: a seeded random network whose detections depend on the image; made without torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from calibox_core.bundle import MODEL_FILE, new_bundle, write_manifest
from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import ClassInfo, InputSpec
from calibox_core.nms import NmsAttributes
from calibox_export.graph import attach_calibrated_nms
from tests.support.manifests import small_manifest

STRIDE = 8
CHANNELS = 16


def make_tiny_bundle(
    root: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    classes: int = 3,
    height: int = 96,
    width: int = 128,
    seed: int = 0,
    nms: NmsAttributes | None = None,
    **changes: Any,
) -> Path:
    """Writes ``root/name/version`` and returns it.

    Args:
        root: the model repository.
        name: of the model.
        version: of the model.
        classes: number of classes; they are called class-0, class-1, ... with the category ids 1, 2, ...
        height: rows of the input, a multiple of 8.
        width: columns of the input, a multiple of 8.
        seed: of the weights; two seeds answer differently.
        nms: what is fixed in the graph; 200 candidates and 50 detections when None.
        changes: fields of the manifest, as for `small_manifest`.
    """
    attributes = nms or NmsAttributes(pre_nms_top_k=200, max_detections=50)
    fields: dict[str, Any] = {
        "classes": tuple(ClassInfo(name=f"class-{i}", category_id=i + 1) for i in range(classes)),
        "fusion": Fusion(name=FusionName.GEOMETRIC, alpha=0.5),
    }
    manifest = small_manifest(
        name=name,
        version=version,
        input=InputSpec(height=height, width=width),
        nms=attributes,
        **(fields | changes),
    )
    folder = root / name / version
    with new_bundle(folder) as scratch:
        network = tiny_network(classes=classes, height=height, width=width, seed=seed)
        onnx.save(attach_calibrated_nms(network, attributes), scratch / MODEL_FILE)
        write_manifest(scratch, manifest)
    return folder


def tiny_network(*, classes: int = 3, height: int = 96, width: int = 128, seed: int = 0) -> onnx.ModelProto:
    """Two convolutions of stride 8 in all: one box per cell, about as wide as the image says."""
    rows, columns = height // STRIDE, width // STRIDE
    model = parser.parse_model(f"""
      <ir_version: 10, opset_import: ["" : 20]>
      tiny (uint8[batch, {height}, {width}, 3] images, float[batch, 3] fusion) => (
          float[batch, {rows * columns}, 4] boxes, float[batch, {rows * columns}, {classes}] p,
          float[batch, {rows * columns}, 1] q) {{
        pixels = Cast <to = 1> (images)
        centred = Sub(pixels, grey)
        unit = Mul(centred, contrast)
        planes = Transpose <perm = [0, 3, 1, 2]> (unit)
        raw_features = Conv <kernel_shape = [{STRIDE}, {STRIDE}], strides = [{STRIDE}, {STRIDE}]> (planes, stem)
        features = Tanh(raw_features)
        raw = Conv <kernel_shape = [1, 1]> (features, head, head_bias)
        cells = Reshape(raw, cells_shape)
        by_cell = Transpose <perm = [0, 2, 1]> (cells)
        class_logits, quality_logits, offsets = Split <axis = 2> (by_cell, parts)
        p = Sigmoid(class_logits)
        q = Sigmoid(quality_logits)
        shift, grow = Split <axis = 2, num_outputs = 2> (offsets)
        shift_unit = Tanh(shift)
        shift_pixels = Mul(shift_unit, stride)
        centre = Add(shift_pixels, cell_centres)
        grow_unit = Tanh(grow)
        scale = Exp(grow_unit)
        half_size = Mul(scale, half_extent)
        low = Sub(centre, half_size)
        high = Add(centre, half_size)
        open_boxes = Concat <axis = 2> (low, high)
        bounded = Max(open_boxes, zero)
        boxes = Min(bounded, limits)
      }}""")
    weights = _weights(np.random.default_rng(seed), classes, height, width)
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in weights.items())
    return model


def _weights(rng: np.random.Generator, classes: int, height: int, width: int) -> dict[str, NDArray[Any]]:
    y, x = np.mgrid[: height // STRIDE, : width // STRIDE]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) * STRIDE + STRIDE / 2
    values = classes + 1 + 4
    # Class logits around -4 with a wide spread: a few cells are sure, most are not.
    bias = np.concatenate([np.full(classes, -4.0), np.zeros(5)])
    arrays = {
        "grey": np.array(114.0),
        "contrast": np.array(1 / 64),
        "stem": rng.normal(size=(CHANNELS, 3, STRIDE, STRIDE)) / STRIDE,
        "head": rng.normal(size=(values, CHANNELS, 1, 1)) * 0.6,
        "head_bias": bias,
        "stride": np.array(float(STRIDE)),
        "cell_centres": centres[None],
        "half_extent": np.array(1.5 * STRIDE),
        "zero": np.array(0.0),
        "limits": np.array([width, height, width, height])[None, None],
    }
    shapes = {"cells_shape": np.array([0, values, -1]), "parts": np.array([classes, 1, 4])}
    return {key: array.astype(np.float32) for key, array in arrays.items()} | shapes
