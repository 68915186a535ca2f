"""Changes and stops under load of benchmarks/soak, short."""

from pathlib import Path

import pytest

from benchmarks.soak import lifecycle
from benchmarks.soak.findings import Findings
from benchmarks.soak.setup import Setup


def test_changes_and_a_stop_under_load_lose_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LOAD_S", 0.4)
    findings = Findings()
    lifecycle.prove(Setup(models, tmp_path, changes=3), findings)
    assert findings.failed == []
