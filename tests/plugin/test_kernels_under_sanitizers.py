"""The kernels with one thread per CUDA thread, watched for data races and for memory that is not theirs."""

import subprocess
from pathlib import Path

import pytest

from tests.support.kernel_build import build_replay
from tests.support.kernel_calls import answers, call_bytes, generated
from tests.support.nms_answers import assert_reference_answers
from tests.support.pool_cases import assert_pooled, generated_pool, pool_answers, pool_bytes

pytestmark = pytest.mark.slow

CASES = 50


@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
@pytest.mark.timeout(1800)
def test_no_race_and_no_stray_access(tmp_path: Path, sanitizers: str) -> None:
    cases = [generated(seed) for seed in range(CASES)]
    pools = [generated_pool(seed) for seed in range(CASES)]
    program = build_replay(tmp_path, sanitizers)
    found = answers(watched(program, "nms", b"".join(map(call_bytes, cases))), cases)
    for case, one in zip(cases, found, strict=True):
        assert_reference_answers(one, case)
    pooled = pool_answers(watched(program, "pool", b"".join(map(pool_bytes, pools))), pools)
    for pool, values in zip(pools, pooled, strict=True):
        assert_pooled(values, pool)


def replayed(program: Path, operator: str, calls: bytes) -> subprocess.CompletedProcess[str]:
    folder = program.parent
    (folder / "calls").write_bytes(calls)
    return subprocess.run(
        [program, operator, folder / "calls", folder / "answers"], capture_output=True, text=True, check=False
    )


def watched(program: Path, operator: str, calls: bytes) -> bytes:
    """The answers, if the sanitizer said nothing."""
    done = replayed(program, operator, calls)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
    return (program.parent / "answers").read_bytes()


@pytest.mark.timeout(900)
def test_the_thread_sanitizer_misses_a_barrier_that_is_left_out(tmp_path: Path) -> None:
    """Without the barrier behind the loading of the boxes, threads read what others may not have written yet."""
    program = build_replay(tmp_path, "thread", "-DCALIBOX_WITHOUT_LOADING_BARRIER")
    for seed in (2, 4, 6):  # each has dozens of candidates
        done = replayed(program, "nms", call_bytes(generated(seed)))
        assert done.returncode != 0
        assert "WARNING: ThreadSanitizer: data race" in done.stderr
        assert "find_tile_overlaps" in done.stderr
