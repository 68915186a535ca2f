"""benchmarks/peers/wrap.py: a detector without our contract becomes a bundle whose answers are the detector's."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from benchmarks.peers.wrap import wrap
from calibox_core.bundle import read_bundle
from calibox_server.engine import EngineInput
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine

ROWS, SIDE = 5, 64


def detector() -> Any:
    """Boxes that overlap, scores and labels that depend on the mean of each colour."""
    return parser.parse_model(f"""
      <ir_version: 8, opset_import: ["" : 18]>
      plain (float[batch, 3, {SIDE}, {SIDE}] images) => (
          float[batch, {ROWS}, 4] boxes, float[batch, {ROWS}] scores, int64[batch, {ROWS}] labels)
      <float[1, {ROWS}, 4] places = {{{", ".join(f"{i}, {i}, {i + 40}, {i + 40}" for i in range(ROWS))}}},
       float[1, {ROWS}] falling = {{0.9, 0.8, 0.6, 0.4, 0.05}}> {{
        planes = Constant <value_ints = [2, 3]> ()
        colours = Constant <value_ints = [1]> ()
        one = Constant <value_float = 1.0> ()
        three = Constant <value_float = 3.0> ()
        means = ReduceMean <keepdims = 0> (images, planes)
        level = ReduceMean (means, colours)
        scores = Mul(falling, level)
        level_cube = Unsqueeze(level, colours)
        none = Sub(level_cube, level_cube)
        boxes = Add(places, none)
        steps = Mul(scores, three)
        labels = Cast <to = 7> (steps)
      }}""")


@pytest.mark.parametrize("operator", [False, True])
def test_the_answers_are_the_detectors(tmp_path: Path, operator: bool) -> None:
    onnx.save(detector(), tmp_path / "plain.onnx")
    folder = wrap(tmp_path / "plain.onnx", tmp_path / "models", name="plain", operator=operator)
    bundle = read_bundle(folder)
    pixels = np.random.default_rng(0).integers(150, 256, (2, SIDE, SIDE, 3), np.uint8)
    thresholds = bundle.manifest.thresholds
    out = OnnxRuntimeEngine(bundle).run(
        EngineInput(
            images=pixels,
            fusion=np.array([[1, 0, 0]] * 2, np.float32),
            score_threshold=np.full(2, thresholds.score, np.float32),
            iou_threshold=np.full(2, thresholds.iou, np.float32),
            refine_steps=np.zeros(2, np.int32),
        )
    )
    session = ort.InferenceSession(tmp_path / "plain.onnx", providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    boxes, scores, labels = session.run(None, {"images": planes})
    # 0.9, 0.8 and 0.6 of a grey level of about 0.79 in [0.5, 1): the first two are above 0.5, the third is not.
    assert out.num_detections.tolist() == [int((row >= 0.5).sum()) for row in scores] == [2, 2]
    for image in range(2):
        assert np.array_equal(out.boxes[image, :2], boxes[image, :2])
        assert np.allclose(out.scores[image, :2], scores[image, :2], rtol=1e-6)
        assert out.labels[image, :2].tolist() == labels[image, :2].tolist()
        assert out.localization_scores[image, :2].tolist() == [1, 1]
    assert [one.category_id for one in bundle.manifest.classes] == [0, 1, 2]
