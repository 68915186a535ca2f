"""schemathesis asks the live server whatever its OpenAPI document allows, and a little more."""

import subprocess
import sys
from pathlib import Path

from benchmarks.soak.findings import Findings
from benchmarks.soak.served import Served, serving
from benchmarks.soak.setup import Setup

EXAMPLES_OF_BODIES = 400  # a full run of 200,000 damaged bodies asks for so many examples of each operation
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# A deadline of a few milliseconds and a server that is not ready are answered with these by design.
SETTINGS = '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", "503", "504"]\n'


def prove(setup: Setup, findings: Findings) -> None:
    """The whole step."""
    examples = max(20, EXAMPLES_OF_BODIES * setup.bodies // 200_000)
    with serving(setup.models, setup.scratch, setup.serve) as served:
        done = _ask(served, setup.scratch, examples, setup.seed)
        alive = served.process.poll() is None
        status = served.stop()
    end = done.stdout[done.stdout.rfind("= SUMMARY") :] if done.returncode == 0 else done.stdout[-6000:]
    findings.sentences.append(f"{examples} examples of each operation at most.\n\n```text\n{end.strip()}\n```")
    found = f"exit status {done.returncode}"
    findings.must("what schemathesis found", done.returncode == 0, found=found, wanted="nothing")
    findings.must("the server lives, and ends by itself", alive and status == 0, found=status, wanted=0)


def _ask(served: Served, scratch: Path, examples: int, seed: int) -> "subprocess.CompletedProcess[str]":
    (scratch / "schemathesis.toml").write_text(SETTINGS)
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run"]
    command += [f"{served.url}/openapi.json", "--checks", CHECKS, "--max-examples", str(examples), "--seed", str(seed)]
    command += ["--continue-on-failure", "--no-color", "--warnings", "off", "--request-timeout", "30"]
    return subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
