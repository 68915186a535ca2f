"""What the CalibratedNMS function costs in ONNX Runtime on this machine's CPU.

    python benchmarks/operator_latency.py [--runs 60] [--threads 1] [--beside models/detector/1]

"Early": boxes overlap little, so that `max_detections` are kept long before the candidates end. "Whole": boxes lie on
a few objects, so that every candidate is visited. Processor time, so that other work on the machine counts less.
`--beside` names a bundle whose whole graph is timed too, and the operator as a share of it.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calibox_core.bundle import read_bundle
from calibox_core.nms import NmsAttributes
from calibox_export.graph import operator_model
from calibox_server.engine import example_batch

SHAPES = ((25_200, 80), (30_000, 3))  # anchors, classes: a COCO detector at 640 px, a small one like the default bundle
BATCHES = (1, 8)
WARM_UP = 5


def main() -> None:
    """Prints a table as Markdown: median [minimum] in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beside", type=Path, help="folder of a bundle")
    given = parser.parse_args()
    runs, threads = given.runs, given.threads
    session = open_session(operator_model(NmsAttributes(), quality_per_class=False).SerializeToString(), threads)
    print(f"onnxruntime {ort.__version__}, {threads} threads, K = 1000, N = 100, {runs} runs, processor time\n")
    print("| anchors x classes | batch | early, ms | whole, ms |\n|---|---|---|---|")
    found = {}
    for anchors, classes in SHAPES:
        for batch in BATCHES:
            cells = [measure(session, inputs(anchors, classes, batch, objects=o), runs) for o in (100_000, 12)]
            found[anchors, classes, batch] = cells
            print(f"| {anchors:,} x {classes} | {batch} | {' | '.join(map(shown, cells))} |")
    if given.beside is not None:
        print(share(given.beside, threads, runs, found[(*SHAPES[0], 1)]))


def open_session(model: bytes | Path, threads: int) -> ort.InferenceSession:
    """On the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def share(folder: Path, threads: int, runs: int, operator: list[list[float]]) -> str:
    """The operator on the first shape as a part of a bundle's whole graph, one image a run."""
    bundle = read_bundle(folder)
    batch = example_batch(bundle.manifest, 1)
    feeds = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    times = measure(open_session(bundle.model_path, threads), feeds, runs)
    parts = [f"{statistics.median(cell) / statistics.median(times):.1%}" for cell in operator]
    name = f"{bundle.manifest.name}, {bundle.manifest.input.height} x {bundle.manifest.input.width}"
    return f"\n{name}: {shown(times)} ms; the operator is {' (early) and '.join(parts)} (whole) of that"


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


def measure(session: ort.InferenceSession, feeds: dict[str, NDArray[Any]], runs: int) -> list[float]:
    """Milliseconds of single runs."""
    times = []
    for _ in range(WARM_UP + runs):
        started = time.process_time()
        session.run(None, feeds)
        times.append((time.process_time() - started) * 1e3)
    return times[WARM_UP:]


def shown(times: list[float]) -> str:
    """Median and minimum."""
    return f"{statistics.median(times):.1f} [{min(times):.1f}]"


if __name__ == "__main__":
    main()
