"""`kill -9` under load of benchmarks/soak, short."""

import sys
from pathlib import Path

import pytest

from benchmarks.soak import kills
from benchmarks.soak.callers import Callers
from benchmarks.soak.connection import Request
from benchmarks.soak.findings import Findings
from benchmarks.soak.kills import Kills
from benchmarks.soak.setup import Setup

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share memory as Linux does")


def test_a_kill_of_each_kind_of_process_loses_only_what_was_in_flight_in_a_front_end(
    models: Path, tmp_path: Path
) -> None:
    findings = Findings()
    kills.prove(Setup(models, tmp_path, changes=1), findings)
    assert findings.failed == []


def failed_of(**changes: object) -> list[str]:
    """Of kills of front ends that went well, but for these changes."""
    callers = Callers(0, Request(b""), set(), lost=[1, 2])
    found = Kills(callers, in_flight=4, retried=1, sdk_answers={("cell",)})
    for name, value in changes.items():
        setattr(callers if hasattr(callers, name) else found, name, value)
    findings = Findings()
    kills._judge_fronts(findings, found)
    return [what.partition(": ")[2].partition(",")[0] for what, _, _, held in findings.held if not held]


def test_what_breaks_beyond_what_was_in_flight_or_is_answered_wrong_does_not_hold() -> None:
    assert failed_of() == []
    assert failed_of(retried=3) == failed_of(retried=0, lost=[]) == ["requests that broke"]
    assert failed_of(strangers=1) == ["what broke was another's"]
    assert failed_of(wrong=["500"]) == failed_of(unasked=1) == ["wrong answers"]
    assert failed_of(sdk_answers={("cell",), ()}) == ["kinds of answers of the SDK"]


def test_a_killed_engine_process_may_lose_nothing_and_must_be_told_of() -> None:
    findings = Findings()
    kills._judge_engine(findings, Kills(Callers(0, Request(b""), set(), lost=[1]), told=1), 2)
    assert len(findings.failed) == 2
