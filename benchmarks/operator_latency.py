"""What the CalibratedNMS function costs in ONNX Runtime on this machine's CPU.

    python benchmarks/operator_latency.py [--runs 60]

"Early": boxes overlap little, so that `max_detections` are kept long before the candidates end. "Whole": boxes lie on
a few objects, so that every candidate is visited.
"""

import argparse
import os
import statistics
import time

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calibox_core.nms import NmsAttributes
from calibox_export.graph import operator_model

SHAPES = ((25_200, 80), (30_000, 3))  # anchors, classes: a COCO detector at 640 px, a small one like the default bundle
BATCHES = (1, 8)
WARM_UP = 5


def main() -> None:
    """Prints a table as Markdown: median [minimum] in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    model = operator_model(NmsAttributes(), quality_per_class=False).SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    print(f"onnxruntime {ort.__version__}, {options.intra_op_num_threads} threads, K = 1000, N = 100, {runs} runs\n")
    print("| anchors x classes | batch | early, ms | whole, ms |\n|---|---|---|---|")
    for anchors, classes in SHAPES:
        for batch in BATCHES:
            cells = [measure(session, inputs(anchors, classes, batch, objects=o), runs) for o in (100_000, 12)]
            print(f"| {anchors:,} x {classes} | {batch} | {' | '.join(cells)} |")


def inputs(anchors: int, classes: int, batch: int, *, objects: int) -> dict[str, NDArray[np.float32]]:
    """Random boxes of 20 to 140 pixels around ``objects`` centres of a 640-pixel image; few scores are high."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 640, (objects, 2))[rng.integers(0, objects, (batch, anchors))]
    centres = centres + rng.normal(0, 2, centres.shape)
    half = rng.uniform(10, 70, (batch, anchors, 2)) if objects > anchors else rng.uniform(38, 42, (batch, anchors, 2))
    p = (rng.random((batch, anchors, classes)) ** 8).astype(np.float32)
    if objects < anchors:
        p[:, :, 1:] = 0  # one class, or 80 classes on 12 objects would be kept 100 times before the list ends
    return {
        "in_boxes": np.concatenate([centres - half, centres + half], axis=2).astype(np.float32),
        "in_p": p,
        "in_q": rng.random((batch, anchors, 1)).astype(np.float32),
        "in_fusion": np.full((batch, 3), (0.5, 0.5, 0.0), np.float32),
        "in_score_threshold": np.zeros(batch, np.float32),
        "in_iou_threshold": np.full(batch, 0.5, np.float32),
    }


def measure(session: ort.InferenceSession, feeds: dict[str, NDArray[np.float32]], runs: int) -> str:
    """Median and minimum of single runs."""
    times = []
    for _ in range(WARM_UP + runs):
        started = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - started) * 1e3)
    return f"{statistics.median(times[WARM_UP:]):.1f} [{min(times[WARM_UP:]):.1f}]"


if __name__ == "__main__":
    main()
