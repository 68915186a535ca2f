"""The kernels with one thread per CUDA thread, watched for data races and for memory that is not theirs."""

import subprocess
from pathlib import Path

import pytest

from tests.support.kernel_build import build_replay
from tests.support.kernel_calls import answers, call_bytes, generated
from tests.support.nms_answers import assert_reference_answers

pytestmark = pytest.mark.slow

CASES = 50


@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
@pytest.mark.timeout(1800)
def test_no_race_and_no_stray_access(tmp_path: Path, sanitizers: str) -> None:
    cases = [generated(seed) for seed in range(CASES)]
    (tmp_path / "calls").write_bytes(b"".join(map(call_bytes, cases)))
    program = build_replay(tmp_path, sanitizers)
    done = subprocess.run(
        [program, tmp_path / "calls", tmp_path / "answers"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
    for case, found in zip(cases, answers((tmp_path / "answers").read_bytes(), cases), strict=True):
        assert_reference_answers(found, case)
