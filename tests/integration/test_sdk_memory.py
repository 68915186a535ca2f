"""Many calls leave nothing in memory; the measurement is that of benchmarks/sdk_memory.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "benchmarks" / "sdk_memory.py"


def measure(*arguments: str) -> tuple[int, list[int]]:
    """The tool's exit status, and the growth in KiB that it saw for each way."""
    done = subprocess.run([sys.executable, TOOL, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, [json.loads(line)["growth_kib"] for line in done.stdout.splitlines()]


@pytest.mark.slow  # a call costs about a millisecond
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_calls_leave_nothing_in_memory() -> None:
    status, grown = measure("--calls", "100000", "--ways", "sync,async")
    assert status == 0
    assert len(grown) == 2
    assert max(grown) < 1024


@pytest.mark.slow
def test_a_kilobyte_per_call_would_be_noticed() -> None:
    status, grown = measure("--calls", "3000", "--ways", "sync", "--leak", "1000")
    assert status == 1
    assert grown[0] > 2000
