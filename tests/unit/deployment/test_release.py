"""What a release must be: of this checkout, and of checkouts with a fault each."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from release import licences
from release.artefacts import check_wheel
from release.checkout import IMAGES, ROOT, image_text, pins, tracked
from release.checks import check_changelog, check_locks, check_results, check_sizes, check_version, quick_findings
from tests.support.release import Checkout, without


def test_this_checkout_has_no_faults() -> None:
    assert {name: found for name, found in quick_findings(ROOT).items() if found} == {}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.make(tmp_path, version="1.2.3")


def test_a_checkout_that_is_ready_may_be_tagged(checkout: Checkout) -> None:
    assert {name: found for name, found in quick_findings(checkout.root, "v1.2.3").items() if found} == {}


@pytest.mark.parametrize(
    "written", ["image: calibox:${VERSION:-1.2.2}-cpu", "ARG VERSION=1.2.2", "run calibox:1.2.2-cpu"]
)
def test_a_version_that_stayed_behind_is_found_by_its_line(checkout: Checkout, written: str) -> None:
    checkout.write("docker/compose.yaml", f"# one\n{written}\n")
    assert list(check_version(checkout.root)) == [
        "docker/compose.yaml:2: says 1.2.2; the version in pyproject.toml is 1.2.3"
    ]


def test_the_tag_is_the_version(checkout: Checkout) -> None:
    assert list(check_version(checkout.root, "v1.2.3")) == []
    assert list(check_version(checkout.root, "1.2.3")) == [
        "the tag is 1.2.3, and the version in pyproject.toml 1.2.3: the tag must be v1.2.3"
    ]


@pytest.mark.parametrize("spelled", ["1.2.03", "1.2-beta", "one"])
def test_a_version_is_spelled_as_installers_spell_it(tmp_path: Path, spelled: str) -> None:
    assert "PEP 440" in next(check_version(Checkout.make(tmp_path, version=spelled).root))


def test_a_release_has_a_dated_heading_and_leaves_nothing_unreleased(checkout: Checkout) -> None:
    checkout.write(
        "CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [1.2.2] - 2026-01-02\n"
    )
    assert list(check_changelog(checkout.root)) == []
    assert len(list(check_changelog(checkout.root, "v1.2.3"))) == 2
    checkout.write("CHANGELOG.md", "# Changelog\n\n## [1.2.3]\n\n- A thing.\n")
    (finding,) = check_changelog(checkout.root, "v1.2.3")
    assert finding.endswith("has no date; write: ## [1.2.3] - YYYY-MM-DD")
    checkout.write("CHANGELOG.md", "# Changelog\n")
    assert len(list(check_changelog(checkout.root))) == 1


def test_a_lock_of_another_version_than_the_tested_one_is_found(checkout: Checkout) -> None:
    checkout.write("constraints.txt", "numpy==2.4.6\n")
    checkout.write("docker/locks/eval.txt", "NumPy==2.4.5 \\\n    --hash=sha256:00\n")
    assert list(check_locks(checkout.root)) == [
        "docker/locks/eval.txt: numpy is 2.4.5, and constraints.txt has 2.4.6: run `make locks`"
    ]


def test_a_page_of_figures_without_its_commit_is_found(checkout: Checkout) -> None:
    checkout.write("docs/results/speed.md", "# Speed\n\nVery fast.\n")
    assert list(check_results(checkout.root)) == ["docs/results/speed.md: names no commit"]


def test_a_large_file_is_found_unless_it_is_a_model(checkout: Checkout) -> None:
    checkout.write("models/big.onnx", "x" * 1_100_000)
    checkout.write("runs.log", "x" * 1_100_000)
    (finding,) = check_sizes(checkout.root)
    assert finding.startswith("runs.log: 1.1 MB")


def test_what_git_ignores_is_not_looked_at(checkout: Checkout) -> None:
    checkout.write(".gitignore", "build/\n")
    checkout.write("build/large", "x" * 1_100_000)
    assert list(check_sizes(checkout.root)) == []
    assert checkout.root / "build/large" not in tracked(checkout.root)


@pytest.mark.parametrize(
    ("image", "licence", "allowed"),
    [
        ("cpu", "MIT", True),
        ("cpu", "MIT OR GPL-3.0-only", True),
        ("cpu", "MIT AND GPL-3.0-only", False),
        ("cpu", "MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("cpu", "Apache-2.0 WITH LLVM-exception", True),
        ("cpu", "LGPL-2.1-or-later", False),
        ("cpu", licences.NVIDIA, False),
        ("gpu", licences.NVIDIA, True),
        ("gpu", f"{licences.NVIDIA} AND GPL-3.0-only", False),
    ],
)
def test_an_image_holds_what_may_be_handed_on(image: str, licence: str, allowed: bool) -> None:
    assert licences.may_be_in(image, licence) == allowed


def test_a_licence_is_read_from_expression_classifier_or_text() -> None:
    assert licences.licence_of("numpy") == "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0"
    assert licences.licence_of("markdown-it-py") == "MIT"  # a classifier alone
    assert licences.licence_of("pycocotools") == "BSD-2-Clause"  # a text alone: FreeBSD
    assert licences.licence_of("no-such-package") is None


def test_what_was_read_by_hand_is_in_an_image_and_needs_no_more_than_its_name() -> None:
    locked = {package for image in IMAGES for package in pins(image_text(ROOT, image))}
    assert licences.READ.keys() <= locked
    assert [name for name in licences.READ if canonicalize_name(name) != name] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


def test_the_wheel_alone_has_every_command(tmp_path: Path, wheel: Path) -> None:
    assert list(check_wheel(ROOT, wheel, tmp_path / "empty")) == []


@pytest.mark.slow  # the same as above once more
def test_a_wheel_without_a_module_that_a_command_names_is_found(tmp_path: Path, wheel: Path) -> None:
    broken = without(wheel, "calibox_server/models_command.py", tmp_path)
    (finding,) = check_wheel(ROOT, broken, tmp_path / "empty")
    assert "No module named 'calibox_server.models_command'" in finding
