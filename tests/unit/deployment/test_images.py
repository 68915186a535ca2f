"""The Dockerfile and the lock files: what can be told of images without building them."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from calibox_server.options import ENV_PREFIX, Options
from release.checkout import IMAGES, LOCKS, image_text, lock_text, pins
from tests.support.deployment import DOCKER, ROOT, arguments, instructions, stages

TARGETS = tuple(IMAGES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS = {f"{ENV_PREFIX}{name.upper()}" for name in Options.model_fields}


def lock(name: str) -> str:
    return lock_text(ROOT, name)


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([linter, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_and_gets_signals_itself(target: str) -> None:
    stage = stages()[target]
    assert stage.last("USER") == "10001:10001"
    assert json.loads(stage.last("ENTRYPOINT") or "") == [
        "calibox"
    ]  # a list: no shell stands before it and takes SIGTERM
    assert isinstance(json.loads(stage.last("CMD") or ""), list)
    assert any(word == "RUN" and "useradd --uid 10001 --gid 10001" in text for word, text in stage.instructions)
    assert "org.opencontainers.image.version" in (stage.last("LABEL") or "")


@pytest.mark.parametrize(("target", "checked"), [("cpu", True), ("gpu", True), ("eval", False), ("train", False)])
def test_only_images_that_serve_are_asked_for_their_health(target: str, checked: bool) -> None:
    health = stages()[target].last("HEALTHCHECK")
    assert health is not None
    assert (health != "NONE") == checked
    assert not checked or 'CMD ["python", "/opt/health.py"]' in health


def test_bases_are_exact_versions() -> None:
    known = stages()
    bases = {stage.base for stage in known.values()} - known.keys()
    assert len(bases) == 4
    assert [base for base in bases if not re.search(r":\d+\.\d+\.\d+-[a-z]", base)] == []


def test_whatever_is_copied_exists_and_is_let_into_the_build() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        s for word, text in instructions() if word == "COPY" and "--from=" not in text for s in text.split()[:-1]
    ]
    assert "pyproject.toml" in sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [s for s in sources if not any(s == path or s.startswith(f"{path}/") for path in let_in)] == []
    copied_from = {re.search(r"--from=(\S+)", text)[1] for _, text in instructions() if "--from=" in text}  # type: ignore[index]
    assert copied_from <= stages().keys()


def test_variables_of_the_images_are_settings_or_where_the_plugin_lies() -> None:
    named = {name for word, text in instructions() if word == "ENV" for name in re.findall(r"\b(CALIBOX_\w+)=", text)}
    assert {"CALIBOX_HOST", "CALIBOX_MODELS"} <= named
    assert named - SETTINGS == {"CALIBOX_KERNELS"}


def test_versions_that_stand_in_two_places_are_the_same() -> None:
    assert arguments()["VERSION"] == PROJECT["version"]
    for name in ("gpu", "train"):
        assert pins(lock(name))["tensorrt-cu13-bindings"] == arguments()["TENSORRT_VERSION"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_the_version_of_the_constraints(name: str) -> None:
    text = lock(name)
    entries = re.split(r"^(?=[a-z])", re.sub(r"^ *#.*\n", "", text, flags=re.M), flags=re.M)[1:]
    assert len(entries) == len(pins(text)) > 0
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []
    tested = pins((ROOT / "constraints.txt").read_text())
    assert {p: v for p, v in pins(text).items() if tested.get(p, v) != v} == {}


@pytest.mark.parametrize("name", TARGETS)
def test_a_lock_has_all_that_its_extras_ask_for(name: str) -> None:
    extras = re.findall(r"--extra (\w+)", lock(name).splitlines()[1])
    assert extras
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in PROJECT["optional-dependencies"][e])]
    wanted = {canonicalize_name(Requirement(line).name) for line in lines} - {"calibox"}
    assert wanted - pins(image_text(ROOT, name)).keys() == set()


def test_torch_is_in_the_image_that_trains_and_in_no_other() -> None:
    assert {name for name in LOCKS if "torch" in pins(lock(name))} == {"train"}
