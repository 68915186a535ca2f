"""What others take of the cores is told apart from what this process does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibox_server.other_load import OtherLoad, busy_seconds

pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")

SPIN = "import time\nend = time.monotonic() + 30\nprint(flush=True)\nwhile time.monotonic() < end: pass"


def test_idle_time_and_other_cores_do_not_count() -> None:
    #        user nice system idle iowait irq softirq steal guest guest_nice
    lines = [
        "cpu  999 999 999 999 999 999 999 999 999 999",
        "cpu0 100 20 30 5000 600 4 5 6 50 0",
        "cpu1 1 1 1 9 9 1 1 1 0 0",
        "cpu2 7 7 7 7 7 7 7 7 7 7",
        "intr 5",
    ]
    ticks = os.sysconf("SC_CLK_TCK")
    assert busy_seconds(lines, [0, 1]) == pytest.approx((100 + 20 + 30 + 4 + 5 + 6 + 6) / ticks)
    assert busy_seconds(lines, []) == 0


def test_another_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        load = OtherLoad()
        time.sleep(0.5)
        taken = load.share()
        other.kill()
    # It has a core, or its part of one beside what else runs here, and then others have the rest.
    assert taken > 0.5 / os.cpu_count()  # type: ignore[operator]


def test_a_moment_says_nothing() -> None:
    assert OtherLoad().share() == 0
