"""The manifests of docker/kubernetes: as written, as kustomize puts them together, and held against schemas."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.deployment import DOCKER

FOLDER = DOCKER / "kubernetes"
# The oldest that has all that is asked for (preStop's sleep), and the newest whose schemas are at hand.
VERSIONS = ("1.30", "1.37")
_LEAST_KUSTOMIZE = 5  # Debian's kubectl of 2021 brings version 2, which knows no components

Manifest = dict[str, Any]


def written(path: str) -> list[Manifest]:
    """The documents of a file below docker/kubernetes."""
    return [document for document in yaml.safe_load_all((FOLDER / path).read_text()) if document]


def put_together(overlay: str, *components: str, place: Path) -> dict[str, Manifest]:
    """What `kubectl kustomize` makes of an overlay with components, by kind; skipped where there is no kubectl.

    Args:
        overlay: its name.
        components: their names.
        place: an empty folder for a copy in which the overlay names them.
    """
    folder = shutil.copytree(FOLDER, place / overlay)
    kustomization = folder / "overlays" / overlay / "kustomization.yaml"
    named = [f"../../components/{name}" for name in components]
    text, lines = re.subn(
        r"^# components: .*$", f"components: {json.dumps(named)}", kustomization.read_text(), flags=re.M
    )
    assert lines == 1
    kustomization.write_text(text)
    done = subprocess.run([kubectl(), "kustomize", kustomization.parent], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    by_kind = {one["kind"]: one for one in found}
    assert len(by_kind) == len(found)
    return by_kind


def kubectl() -> str:
    """Where a kubectl is whose kustomize is recent enough."""
    path = shutil.which("kubectl")
    if path is not None:
        told = subprocess.run([path, "version", "--client"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"Kustomize Version: v(\d+)\.", told)
        if version is not None and int(version[1]) >= _LEAST_KUSTOMIZE:
            return path
    pytest.skip("there is no kubectl with kustomize 5 or newer on the PATH")


def check(manifests: Iterable[Manifest], versions: Sequence[str] = VERSIONS) -> None:
    """Holds manifests against the schemas of Kubernetes's API; unknown fields are faults.

    Raises:
        ValidationError: the first fault.
    """
    for manifest in manifests:
        for version in versions:
            kubernetes_validate.validate(manifest, version, strict=True)
