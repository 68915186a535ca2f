"""Images per second of a bundle's engines on this machine's CPU, as ratios to its ONNX file, in one interleaved run.

    calibox build models/bccd/1 --precision bf16      # and others, for what shall be compared
    python benchmarks/engines.py [models/bccd/1] [--rounds 9] [--runs 5]

Processor time counts what a run costs; the clock also counts what else the machine does meanwhile.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import BuiltEngine, find_engines, read_engine
from calibox_server.engine import Engine, EngineInput, example_batch, warm_up
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.openvino_engine import OpenVinoEngine

CPU_RUNTIMES = ("onnxruntime", "openvino")


class Cost(NamedTuple):
    """Seconds of one run."""

    processor: float
    clock: float


def main() -> None:
    """Prints a table as Markdown: the median over rounds of each round's ratio, and its extremes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("models/bccd/1"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=5, help="of one image, in a round")
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    built = [read_engine(bundle, folder) for folder in find_engines(bundle) if folder.parent.name in CPU_RUNTIMES]
    engines = [OnnxRuntimeEngine(bundle), *(_opened(bundle, one) for one in built)]
    for engine in engines:
        warm_up(engine, bundle.manifest)
    batch = example_batch(bundle.manifest, 1)
    rounds = [[_cost(engine, batch, arguments.runs) for engine in engines] for _ in range(arguments.rounds)]
    print(f"one thread, one image a run, {arguments.rounds} rounds of {arguments.runs} runs\n")
    print(
        "| engine | processor ms | times as fast | by the clock | AP | AP of the ONNX file |\n|---|---|---|---|---|---|"
    )
    for column, (engine, accuracy) in enumerate(zip(engines, [None, *(b.record.accuracy for b in built)], strict=True)):
        ap = ["", ""] if accuracy is None else [_shown(side["AP"]) for side in (accuracy.engine, accuracy.reference)]
        milliseconds = statistics.median(row[column].processor for row in rounds) * 1e3
        by_cost, by_clock = (_ratio([(row[0][i], row[column][i]) for row in rounds]) for i in range(2))
        print(f"| {engine.name} | {milliseconds:.1f} | {by_cost} | {by_clock} | {ap[0]} | {ap[1]} |")


def _opened(bundle: Bundle, built: BuiltEngine) -> Engine:
    return OnnxRuntimeEngine(bundle, built=built) if built.record.runtime == "onnxruntime" else OpenVinoEngine(built)


def _cost(engine: Engine, batch: EngineInput, runs: int) -> Cost:
    processor, clock = time.process_time(), time.perf_counter()
    for _ in range(runs):
        engine.run(batch)
    return Cost((time.process_time() - processor) / runs, (time.perf_counter() - clock) / runs)


def _ratio(pairs: list[tuple[float, float]]) -> str:
    ratios = [first / own for first, own in pairs]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
