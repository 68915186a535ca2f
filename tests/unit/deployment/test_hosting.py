"""The workflows and the updates of dependencies, against the schemas of those who read them."""

import re
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


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_of_others_are_named_by_their_commit_and_leave_no_key_behind(path: Path) -> None:
    text = path.read_text()
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert used
    assert [name for name, said in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) or "# v" not in said] == []
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_make_is_asked_for_exists(path: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", path.read_text())) <= known


def test_zizmor_finds_no_hole_in_them() -> None:
    auditor = Path(sys.executable).with_name("zizmor")
    audited = subprocess.run(
        [auditor, "--offline", "--no-progress", GITHUB], capture_output=True, text=True, check=False
    )
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_changes_are_checked_by_the_script_that_checks_them_everywhere() -> None:
    steps = yaml.safe_load((GITHUB / "workflows/checks.yaml").read_text())["jobs"]["checks"]["steps"]
    assert [step["run"] for step in steps if "run" in step][-1] == "bash .ci/run"
    assert (ROOT / ".ci/run").is_file()
