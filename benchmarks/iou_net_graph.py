"""What a separate quality network costs inside a bundle's graph, per image, in ONNX Runtime on one thread.

    python benchmarks/iou_net_graph.py [--size 256 256] [--features 64] [--width 128] [--boxes 300] [--kept 100]
        [--rounds 30] [--profile]

Random maps (P3 to P5), boxes and weights; the predictor is hilly enough that most boxes take every step. Times are
of the process, so that other work on the machine counts less. `--profile` adds the operators of five steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from calibox_export.iou_net.stage import predictor_stage, refine_stage
from calibox_training.iou_net.features import SINGLE_STAGE
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.spec import PredictorSpec, RefinementSpec

CLASSES, WARM_UP, STEPS = 6, 3, 5
HILLS = 50  # the paper's first weights of the output layer are flat


def main() -> None:
    """Prints a table as Markdown."""
    options = _options()
    torch.manual_seed(0)
    (height, width), rng = options.size, np.random.default_rng(0)
    spec = PredictorSpec(width=options.width, initialisation="he")
    predictor = IouPredictor(spec, features=options.features, classes=CLASSES)
    with torch.no_grad():
        predictor.output.weight.mul_(HILLS)
    quality = predictor_stage(predictor, SINGLE_STAGE, height=height, width=width)
    refinement = refine_stage(predictor, SINGLE_STAGE, RefinementSpec(steps=STEPS), height=height, width=width)
    maps = {
        f"map_{n}": rng.standard_normal((1, options.features, height // s, width // s), np.float32)
        for n, s in enumerate((8, 16, 32))
    }
    print(
        f"{height}x{width}, {options.features} features, predictor of width {options.width}, {options.boxes} boxes "
        f"before NMS, {options.kept} kept, onnxruntime {ort.__version__}\n\n| | ms per image [quartiles] |\n|---|---|"
    )
    candidates = {"boxes": _boxes(rng, options.boxes, height, width)}
    p = np.zeros((1, options.boxes, CLASSES), np.float32)
    _row("predicted IoU of every candidate", quality, maps | candidates | {"p": p}, options)
    kept = {
        "boxes": _boxes(rng, options.kept, height, width),
        "labels": rng.integers(0, CLASSES, (1, options.kept), np.int32),
        "q": np.zeros((1, options.kept), np.float32),
    }
    for steps in (0, 1, STEPS):
        asked = {"refine_steps": np.array([steps], np.int32)}
        _row(f"{steps} steps of refinement", refinement, maps | kept | asked, options)
    if options.profile:
        _print_profile(refinement, maps | kept | asked)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    for name, default in (("features", 64), ("width", 128), ("boxes", 300), ("kept", 100), ("rounds", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def _boxes(rng: np.random.Generator, count: int, height: int, width: int) -> Any:
    """Log-uniform sides from 16 px to the image's, inside it, ``[1, count, 4]``."""
    limit = np.array([width, height])
    centre = rng.uniform(0, 1, (1, count, 2)) * limit
    half = 8 * np.exp(rng.uniform(0, np.log(limit / 16), (1, count, 2)))
    corners = np.concatenate([centre - half, centre + half], axis=2)
    return np.clip(corners, 0, np.concatenate([limit, limit])).astype(np.float32)


def _session(model: onnx.ModelProto, profile: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _row(what: str, model: onnx.ModelProto, feeds: dict[str, Any], options: argparse.Namespace) -> None:
    session, times = _session(model), []
    for _ in range(WARM_UP + options.rounds):
        start = time.process_time()
        session.run(None, feeds)
        times.append(1e3 * (time.process_time() - start))
    low, middle, high = statistics.quantiles(times[WARM_UP:], n=4)
    print(f"| {what} | {middle:.2f} [{low:.2f}, {high:.2f}] |")


def _print_profile(model: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    """Operators of one run by their own time; Loop holds the others and is left out."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model, Path(folder) / "run")
        for _ in range(WARM_UP):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    spent, calls = Counter[str](), Counter[str]()
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("kernel_time"):
            kind = event["args"]["op_name"]
            spent[kind] += event["dur"] / 1e3 / WARM_UP
            calls[kind] += 1
    del spent["Loop"]
    print("\n| operator | ms | calls |\n|---|---|---|")
    for kind, milliseconds in spent.most_common(8):
        print(f"| {kind} | {milliseconds:.2f} | {calls[kind] // WARM_UP} |")


if __name__ == "__main__":
    main()
