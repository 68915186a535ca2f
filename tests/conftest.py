"""Shared set-up of all tests: where `tests` is imported from, and the hypothesis profiles.

Profiles (environment variable `HYPOTHESIS_PROFILE`): `default`, `ci` (the same examples on every run) and `thorough`.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # importlib mode adds nothing, and tests import each other's helpers as `tests.support.x`
    sys.path.insert(0, str(ROOT))

# Tests' networks are tiny: a second thread costs more in waiting than it computes, above all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A server of a test measures nothing at its start, unless the test is about that.
os.environ.setdefault("CALIBOX_TUNE", "false")

# A shell's background jobs ignore Ctrl-C, and so would every command that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline and no complaint about slow examples: how long an example takes says more about the machine's load.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _UNHURRIED, max_examples=60)
settings.register_profile("ci", _UNHURRIED, max_examples=60, derandomize=True)
settings.register_profile("thorough", _UNHURRIED, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a test configures of logs ends with it: others of the same process look at what is logged."""
    filters = list(logging.getLogger("uvicorn.error").filters)
    yield
    structlog.reset_defaults()
    logging.getLogger("uvicorn.error").filters[:] = filters
