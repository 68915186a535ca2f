"""The workflows and the updates of dependencies, against the schemas of those who read them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.deployment import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yaml"))


@pytest.mark.parametrize(
    ("schema", "files"), [("github-workflows", WORKFLOWS), ("dependabot", [GITHUB / "dependabot.yml"])]
)
def test_a_file_is_what_its_reader_wants(schema: str, files: list[Path]) -> None:
    assert files
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job and job["timeout-minutes"] for job in workflow["jobs"].values())


def test_changes_are_checked_by_the_script_that_checks_them_everywhere() -> None:
    steps = yaml.safe_load((GITHUB / "workflows/checks.yaml").read_text())["jobs"]["checks"]["steps"]
    assert [step["run"] for step in steps if "run" in step][-1] == "bash .ci/run"
    assert (ROOT / ".ci/run").is_file()
