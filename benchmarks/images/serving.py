"""What an image must do once it runs: be confined, be healthy, answer as the checkout's own server does, stop."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.images.confined import Image, started
from benchmarks.images.pictures import PROBE, write_pictures
from benchmarks.soak.findings import Findings
from calibox_server.listener import bind

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
EXAMPLE = MODELS / "bccd" / "1" / "example.jpg"
START_LIMIT_S = 120
NOBODY = "10001"


def prove_serving(image: Image, scratch: Path, findings: Findings) -> None:
    """Of `cpu`: runs its own entry point, asks it, and stops it."""
    pictures = scratch / "pictures"
    write_pictures(pictures, EXAMPLE)
    _prove_pixels(image, pictures, findings)
    port = free_port()
    variables = {"CALIBOX_PORT": str(port), "CALIBOX_TUNE": "false", "CALIBOX_INSTANCES": "1"}
    began = time.monotonic()
    with started(image, variables, {"/models": MODELS}, scratch / "log") as running:
        asked = image.run(image.health, variables, {})
        while asked.status and time.monotonic() - began < START_LIMIT_S:
            time.sleep(0.2)
            asked = image.run(image.health, variables, {})
        ready_s = time.monotonic() - began
        findings.must("the image's health check", asked.status == 0, found=asked.errors or "healthy", wanted="healthy")
        with _server_outside() as outside:
            _prove_answers(f"http://127.0.0.1:{port}", outside, sorted(pictures.glob("real-*")), findings)
        facts = running.facts()
        _prove_confined(facts, image, findings)
        status = running.stop()
        findings.must("exit status after SIGTERM", status == 0, found=status, wanted=0)
    memory = int(facts["VmHWM"].split()[0]) / 1000
    findings.sentences.append(f"Healthy {ready_s:.1f} s after the start; at most {memory:.0f} MB of memory.")


def prove_eval(image: Image, _: Path, findings: Findings) -> None:
    """Of `eval`: its command explains itself, confined as it is."""
    done = image.run(image.start, {}, {})
    findings.must("calibox eval --help", done.status == 0, found=done.errors[-300:] or done.status, wanted=0)
    listed = "--report" in re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    findings.must("it names its options", listed, found=listed, wanted=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with bind("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


def _prove_pixels(image: Image, pictures: Path, findings: Findings) -> None:
    """What is decoded and letterboxed has the same bits as with the packages of the checkout's environment."""
    inside = image.run(["python", "-c", PROBE, "/models"], {}, {"/models": pictures})
    outside = subprocess.run([sys.executable, "-c", PROBE, pictures], capture_output=True, text=True, check=True).stdout
    differ = set(inside.output.splitlines()) ^ set(outside.splitlines())
    names = sorted({line.split()[0] for line in differ})
    found = inside.errors[-500:] or f"{len(names)} of {len(outside.splitlines())} differ {' '.join(names[:5])}".strip()
    wanted = f"0 of {len(outside.splitlines())} differ"
    findings.must("pixels, decoded and letterboxed, to the bit", not differ, found=found, wanted=wanted)


def _prove_answers(inside: str, outside: str, pictures: list[Path], findings: Findings) -> None:
    with httpx2.Client(timeout=60) as client:
        both = [(_answer(client, inside, path), _answer(client, outside, path)) for path in [EXAMPLE, *pictures]]
    found = sum(len(answer["results"][0]["detections"]) for answer, _ in both)
    same = sum(first == second for first, second in both)
    findings.must(
        f"answers of /v1/detect equal to those of a server outside, {found} detections in all",
        same == len(both) and found > 0,
        found=f"{same} of {len(both)}",
        wanted=f"{len(both)} of {len(both)}",
    )


def _answer(client: httpx2.Client, url: str, picture: Path) -> dict[str, Any]:
    """The answer to one picture, without the time that it took."""
    response = client.post(f"{url}/v1/detect", files={"file": (picture.name, picture.read_bytes())})
    if response.status_code != httpx2.codes.OK:
        raise RuntimeError(f"{url}: {response.status_code} {response.text}")
    answer: dict[str, Any] = response.json()
    del answer["timing"]
    return answer


def _prove_confined(facts: dict[str, str], image: Image, findings: Findings) -> None:
    users = set(facts["Uid"].split() + facts["Gid"].split())
    findings.must("user and group", users == {NOBODY}, found=" ".join(sorted(users)), wanted=NOBODY)
    rights = {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    findings.must("capabilities", rights == {0}, found=" ".join(f"{right:x}" for right in rights), wanted="0")
    findings.must("no new privileges", facts["NoNewPrivs"] == "1", found=facts["NoNewPrivs"], wanted=1)
    attempt = "import pathlib, sys; pathlib.Path(sys.argv[1], 'x').write_text('')"
    places = ("/", "/opt/calibox", "/models", "/tmp", "/var/cache/calibox")
    written = [place for place in places if image.run(["python", "-c", attempt, place], {}, {}).status == 0]
    wanted = ["/tmp", "/var/cache/calibox"]
    findings.must("folders that can be written", written == wanted, found=" ".join(written), wanted=" ".join(wanted))


@contextlib.contextmanager
def _server_outside() -> Iterator[str]:
    """`calibox serve` of this checkout on the same models, with the same settings."""
    port = free_port()
    words = ["serve", "--models", str(MODELS), "--port", str(port), "--no-tune", "--instances", "1"]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("CALIBOX_")}
    command = [sys.executable, "-m", "calibox_core.cli", *words]
    with subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(lambda: httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx2.codes.OK)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_LIMIT_S
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if ready():
                return
        if time.monotonic() > until:
            raise RuntimeError("the server outside did not start")
        time.sleep(0.2)
