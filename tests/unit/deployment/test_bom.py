"""Bills of material."""

import json
from pathlib import Path
from typing import Any

import pytest

from release.bom import bill, debian_components, findings, locked_components, write_bills
from release.checkout import IMAGES, ROOT, image_text, pins

LOCK = """\
# a comment
numpy==2.4.6 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
Typing_Extensions==4.16.0 \\
    --hash=sha256:{a}
""".format(a="a" * 64, b="b" * 64)

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""


def test_a_locked_package_is_named_with_its_hashes_and_its_licence() -> None:
    numpy, extensions = locked_components(LOCK)
    assert str(numpy.purl) == "pkg:pypi/numpy@2.4.6"
    assert sorted(h.content for h in numpy.hashes) == ["a" * 64, "b" * 64]
    assert str(extensions.purl) == "pkg:pypi/typing-extensions@4.16.0"
    (licence,) = extensions.licenses
    assert licence.value == "PSF-2.0"


def test_of_debians_packages_those_that_are_installed_are_named() -> None:
    (libc,) = debian_components(STATUS, "debian-12")
    assert str(libc.purl) == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12"


@pytest.mark.parametrize("image", IMAGES)
def test_the_bill_of_an_image_is_what_the_schema_says_and_names_all_that_is_locked(image: str) -> None:
    text = bill(ROOT, image)
    assert findings(text) == []
    named = {part["name"]: part["version"] for part in json.loads(text)["components"]}
    assert named == pins(image_text(ROOT, image))
    assert bill(ROOT, image) == text  # no clock, no chance


def test_a_bill_that_is_wrong_is_found() -> None:
    document = json.loads(bill(ROOT, "cpu"))
    document["components"][0]["type"] = "thing"
    (finding,) = findings(json.dumps(document))
    assert "'thing' is not one of" in finding


def test_a_built_tree_adds_its_distribution(tmp_path: Path) -> None:
    tree = tmp_path / "trees/cpu/rootfs"
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "var/lib/dpkg/status").write_text(STATUS)
    (tree / "etc/os-release").write_text('PRETTY_NAME="Debian 12"\nID=debian\nVERSION_ID="12"\n')
    assert write_bills(ROOT, ("cpu", "eval"), tmp_path / "bills", tmp_path / "trees") == []
    cpu, of_eval = (components(tmp_path / f"bills/{name}.cdx.json") for name in ("cpu", "eval"))
    assert "libc6" in {part["name"] for part in cpu}
    assert "libc6" not in {part["name"] for part in of_eval}
    assert sorted(path.name for path in (tmp_path / "bills").iterdir()) == ["cpu.cdx.json", "eval.cdx.json"]


def components(path: Path) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = json.loads(path.read_text())["components"]
    return parts
