"""Rules of the repository that a reader would otherwise have to remember."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / path for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def files_of(package: Path) -> Iterator[str]:
    """Names as in the wheel: `calibox_core/boxes.py`."""
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(package.parent).as_posix()


def test_the_wheel_holds_the_five_packages_and_all_their_files(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("calibox-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {package.name for package in PACKAGES}
    assert len(PACKAGES) == 5
    assert sorted(names) == sorted(name for package in PACKAGES for name in files_of(package))
    assert {f"{package.name}/py.typed" for package in PACKAGES} <= set(names)
    assert [name for name in names if re.fullmatch(r"calibox_training/recipes/[^/]+\.yaml", name)]


def test_imports_point_one_way() -> None:
    linted = run(Path(sys.executable).with_name("lint-imports"), "--no-cache")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def loaded_by(package: str, *, but: tuple[str, ...] = ()) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after it imported every module of `package`."""
    code = f"""
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    if not module.name.endswith("__main__") and not module.name.startswith({but!r}):
        importlib.import_module(module.name)
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_server_loads_no_training_framework() -> None:
    loaded = loaded_by("calibox_server")
    assert {"calibox_server", "calibox_core"} <= loaded
    unwanted = {"torch", "torchvision", "lightning", "onnx", "onnxscript"}
    unwanted |= {"calibox_training", "calibox_export", "calibox_client"}
    assert loaded & unwanted == set()


def test_the_client_loads_nothing_of_the_other_rooms() -> None:
    # The command line and the evaluation stand on core's metrics; the SDK does not.
    loaded = loaded_by(
        "calibox_client", but=("calibox_client.commands", "calibox_client.evaluation", "calibox_client.calibration")
    )
    assert "calibox_client" in loaded
    unwanted = {"pydantic", "torch", "fastapi", "onnxruntime", "cv2"}
    unwanted |= {"calibox_core", "calibox_training", "calibox_export", "calibox_server"}
    assert loaded & unwanted == set()


def test_every_dependency_is_pinned() -> None:
    pinned = {
        canonicalize_name(Requirement(line).name)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = PROJECT["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "gpu"}
    wanted = {
        canonicalize_name(Requirement(line).name)
        for lines in (project["dependencies"], *extras.values())
        for line in lines
    }
    assert wanted - pinned == {"calibox"}  # `export` names the extra `train`


def definitions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Name, lines and ceiling of every function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield node.name, lines, 200 if isinstance(node, ast.ClassDef) else 60


def test_modules_functions_and_classes_stay_below_their_ceilings() -> None:
    """The ceilings of CONTRIBUTING.md; what is good lies far below them."""
    too_long = []
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        text = path.read_text()
        parts = [("module", text.count("\n"), 500), *definitions(ast.parse(text))]
        too_long += [f"{path.relative_to(ROOT)} {name}: {n} lines" for name, n, ceiling in parts if n > ceiling]
    assert too_long == []


# docs/client.md is run, not only compiled, by the client's own tests.
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name != "client.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_compiles(page: Path) -> None:
    for block in re.finditer(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        compile(block[1], str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    assert listed.returncode == 0, listed.stderr
    own_folder = re.compile(r"(?<![\w.])/(?:home|Users|work)/\w+")
    found = []
    for name in listed.stdout.splitlines():
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # a picture or a model; a file removed, but not yet from git
            continue
        found += [f"{name}: {hit[0]}" for hit in own_folder.finditer(text)]
    assert found == []
