"""benchmarks/gpu/run.sh where there is no GPU: its steps by the kernels' host build, and its manners."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.outcome import Outcome, write_outcome
from benchmarks.gpu.report import Report
from benchmarks.gpu.setup import ROOT, Setup
from benchmarks.gpu.steps import GROUPS, STEPS, run
from tests.support.kernel_build import compiler

SCRIPT = ROOT / "benchmarks" / "gpu" / "run.sh"
# What a GPU machine need not have, among what the project has elsewhere.
ABSENT = ("pydantic", "onnx", "onnxruntime", "pytest", "hypothesis", "typer", "rich", "lightning", "tensorrt")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    compiler()
    here = Setup(host=True, build=tmp_path_factory.mktemp("script"))
    assert run("build", here).status == "passed"
    return here


@pytest.mark.parametrize("step", [name for name in STEPS if name not in ("build", "timing-25200", "timing-100000")])
def test_a_step_runs_on_the_host(setup: Setup, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as run.sh does
    outcome = run(step, setup)
    assert outcome.status == ("skipped" if step == "sanitizers" else "passed"), outcome.why
    assert outcome.tables or outcome.facts
    assert all(table.rows for table in outcome.tables)


def test_a_difference_fails_the_step_that_sees_it(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise AssertionError("one label is another")

    monkeypatch.setattr("benchmarks.gpu.correctness.assert_pooled", wrong)
    outcome = run("correctness", setup)
    assert outcome.status == "failed"
    assert "5 cases differ; the first:\none label is another" in outcome.why
    assert outcome.tables[1].rows[-1] == ["Precise RoI pooling", 5, 0]


def test_each_group_and_all_of_them_end_in_time() -> None:
    for steps in GROUPS.values():
        assert sum(STEPS[name].seconds_at_most for name in steps) <= 8 * 60
    assert {name for steps in GROUPS.values() for name in steps} == set(STEPS)
    assert sum(step.seconds_at_most for step in STEPS.values()) <= 20 * 60


def test_it_needs_torch_torchvision_and_numpy_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import importlib.metadata as metadata
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in {ABSENT!r} else find(name, path, target)
PathFinder.find_spec = find_others
version = metadata.version
def only_of_others(name):
    if name == "calibox":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = only_of_others
"""
    )
    modules = sorted(path.stem for path in SCRIPT.parent.glob("*.py") if path.stem != "__init__")
    code = "import importlib\n" + "".join(f"importlib.import_module('benchmarks.gpu.{name}')\n" for name in modules)
    code += f"import sys\nassert not {set(ABSENT)} & set(sys.modules)\n"
    rooms = (ROOT / name for name in ("", "benchmarks", "core", "training", "export"))
    path = ":".join(map(str, (tmp_path, *rooms)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": path, "PATH": ""}
    )
    assert done.returncode == 0, done.stderr


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, env=environment)


def test_a_failed_step_is_written_down_and_the_next_one_runs(tmp_path: Path) -> None:
    done = call("--host", "--build", tmp_path / "empty", tmp_path / "out", "graphs", "environment")
    assert done.returncode == 1, done.stdout + done.stderr
    steps = json.loads((tmp_path / "out" / "results.json").read_text())["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {"environment": "passed", "graphs": "failed"}
    assert "cannot be loaded" in steps["graphs"]["why"]
    assert "## graphs: failed" in (tmp_path / "out" / "results.md").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "results.md"]


def test_an_unknown_step_is_one_sentence(tmp_path: Path) -> None:
    done = call(tmp_path, "speed")
    assert done.returncode == 2
    assert "no step is called speed; there are checks, timings, models, environment, build" in done.stderr


def test_a_later_call_adds_to_what_is_there(tmp_path: Path) -> None:
    Report(tmp_path, host=True).add("environment", Outcome(facts={"cores": 2}))
    Report(tmp_path, host=True).add("build", Outcome("failed", "nvcc fails"))
    assert Report(tmp_path, host=True).failed()
    text = (tmp_path / "results.md").read_text()
    assert "| cores | 2 |" in text
    assert "nvcc fails" in text
    assert "no figure here says anything about a GPU" in text
    assert not Report(tmp_path, host=False).failed()  # figures of the two are not mixed


def test_an_outcome_survives_its_file(tmp_path: Path) -> None:
    outcome = Outcome("failed", "why", 1.5, {"a": 1}, {"b": [1.0]}, ["A sentence."])
    outcome.table("title", "x", "y").append([1, "two"])
    write_outcome(tmp_path / "outcome.json", outcome)
    assert Outcome.read(tmp_path / "outcome.json") == outcome


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_script_on_the_host(tmp_path: Path) -> None:
    done = call("--host", "--build", tmp_path / "build", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((tmp_path / "out" / "results.json").read_text())["steps"]
    assert list(steps) == list(STEPS)
