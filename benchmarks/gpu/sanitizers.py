"""compute-sanitizer over the program that replays calls: memory, races, barriers, what was never written."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.cases import compare
from benchmarks.gpu.environment import tool
from benchmarks.gpu.outcome import NothingToDo, Outcome
from benchmarks.gpu.setup import Setup
from tests.support.kernel_calls import answers, call_bytes, generated
from tests.support.pool_cases import assert_pooled, generated_pool, pool_answers, pool_bytes

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
_FOUND = 9  # the exit status that is asked for where a tool finds something


def watch_replays(setup: Setup, outcome: Outcome) -> None:
    """Every tool over both operators; without compute-sanitizer the program alone."""
    program = tool("compute-sanitizer")
    watched = program is not None and not setup.host
    rows = outcome.table("Replayed calls", "tool", "operator", "calls", "result")
    with tempfile.TemporaryDirectory() as work:
        replays = _write_calls(setup, Path(work), setup.pick(24, 3))
        for name in ("none", *(TOOLS if watched else ())):
            prefix = [] if name == "none" else [str(program), "--tool", name, "--error-exitcode", str(_FOUND)]
            for operator, (count, calls, check) in replays.items():
                rows.append([name, operator, count, _replay(setup, prefix, operator, calls, check)])
                setup.keep(outcome)
    wrong = [row for row in rows if row[3] != "clean"]
    if wrong:
        raise AssertionError("\n".join(f"{name}, {operator}: {result}" for name, operator, _, result in wrong))
    if not watched:
        raise NothingToDo(
            "compute-sanitizer is not on this machine, or there is no GPU: the calls were replayed and their answers "
            "compared, but nothing watched them."
        )


def _write_calls(setup: Setup, work: Path, count: int) -> dict[str, tuple[int, Path, Callable[[bytes], None]]]:
    """By operator: how many calls, the file of them, and what compares the answers."""
    cases, pools = [generated(seed) for seed in range(count)], [generated_pool(seed) for seed in range(count)]
    (work / "nms").write_bytes(b"".join(map(call_bytes, cases)))
    (work / "pool").write_bytes(b"".join(map(pool_bytes, pools)))

    def compare_nms(data: bytes) -> None:
        for found, case in zip(answers(data, cases), cases, strict=True):
            compare(setup, found, case)

    def compare_pools(data: bytes) -> None:
        for found, case in zip(pool_answers(data, pools), pools, strict=True):
            assert_pooled(found, case)

    return {"nms": (count, work / "nms", compare_nms), "pool": (count, work / "pool", compare_pools)}


def _replay(setup: Setup, prefix: list[str], operator: str, calls: Path, check: Callable[[bytes], None]) -> str:
    """``clean``, or what was said."""
    found = calls.with_suffix(".answers")
    found.unlink(missing_ok=True)
    command = [*prefix, str(setup.replay), operator, str(calls), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return (done.stdout + done.stderr).strip()[-1500:] or f"exit status {done.returncode}"
    try:
        check(found.read_bytes())
    except AssertionError as difference:
        return f"answers differ: {difference}"[:1500]
    return "clean"
