"""Images per second of a bundle's engines on this machine's CPU, as ratios to its ONNX file, in one interleaved run.

calibox build models/bccd/1 --precision bf16      # and others, for what shall be compared
python benchmarks/engines.py [models/bccd/1] [--rounds 9] [--processor-time]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from calibox_core.bundle import read_bundle
from calibox_core.engines import find_engines, read_engine
from calibox_server.engine import Engine, EngineInput, example_batch, warm_up
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.openvino_engine import OpenVinoEngine

RUNS = 5  # of one image, in a round


def main() -> None:
    """Prints a table as Markdown: the median over rounds of each round's ratio, and its extremes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("models/bccd/1"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processor-time", action="store_true", help="count it instead of the clock")
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    engines: list[Engine] = [OnnxRuntimeEngine(bundle)]
    built = [read_engine(bundle, folder) for folder in find_engines(bundle)]
    engines += [OpenVinoEngine(one) for one in built]
    accuracies = [None, *(one.record.accuracy for one in built)]
    for engine in engines:
        warm_up(engine, bundle.manifest)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    batch = example_batch(bundle.manifest, 1)
    rounds = [[_seconds(engine, batch, clock) for engine in engines] for _ in range(arguments.rounds)]
    print(f"one thread, one image a run, {arguments.rounds} rounds of {RUNS} runs\n")
    print("| engine | ms per image | times as fast | AP | AP of the ONNX file |\n|---|---|---|---|---|")
    for column, (engine, accuracy) in enumerate(zip(engines, accuracies, strict=True)):
        ratios = [row[0] / row[column] for row in rounds]
        ap = ["", ""] if accuracy is None else [f"{side['AP']:.4f}" for side in (accuracy.engine, accuracy.reference)]
        milliseconds = statistics.median(row[column] for row in rounds) * 1e3
        shown = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"| {engine.name} | {milliseconds:.1f} | {shown} | {ap[0]} | {ap[1]} |")


def _seconds(engine: Engine, batch: EngineInput, clock: Callable[[], float]) -> float:
    """Of one run."""
    start = clock()
    for _ in range(RUNS):
        engine.run(batch)
    return (clock() - start) / RUNS


if __name__ == "__main__":
    main()
