"""The files of a release, made and tried: sdist, wheel, the wheel alone in an empty environment, locks made anew."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

from release.checkout import LOCKS, lock_text, pins, project, version

INSTALLED = "import calibox_core; print(calibox_core.__version__, calibox_core.__file__)"


def check_artefacts(root: Path, folder: Path) -> Iterator[str]:
    """Builds sdist and wheel into ``folder`` and installs the wheel; findings as sentences."""
    built = _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, root)
    if built.returncode != 0:
        yield f"sdist and wheel cannot be built:\n{built.stdout}{built.stderr}"
        return
    wheel, sdist = folder / f"{_stem(root)}-py3-none-any.whl", folder / f"{_stem(root)}.tar.gz"
    yield from (f"{path.name} was not built" for path in (wheel, sdist) if not path.is_file())
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    with tarfile.open(sdist) as opened_sdist:
        in_sdist = {name.partition("/")[2] for name in opened_sdist.getnames()}
    for needed in ("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "docker/Dockerfile"):
        if needed not in in_sdist:
            yield f"{sdist.name}: {needed} is not in it"
    if f"{_stem(root)}.dist-info/licenses/LICENSE" not in names:
        yield f"{wheel.name}: the licence is not in it"
    yield from check_wheel(root, wheel, folder / "empty")


def check_wheel(root: Path, wheel: Path, environment: Path) -> Iterator[str]:
    """Installs a wheel alone into a new environment, and calls it.

    What the wheel stands on is lent by the environment that runs this, behind the new one's own packages, so that
    nothing is downloaded; the checkout itself is on no path.
    """
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    installed = _run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel
    )
    if installed.returncode != 0:
        yield f"{wheel.name} cannot be installed:\n{installed.stderr}"
        return
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    imported = _run(python, "-c", INSTALLED, folder=environment)
    wanted = f"{version(root)} {site}/calibox_core/__init__.py\n"
    if imported.stdout != wanted:
        yield f"{wheel.name}: importing it gives {imported.stdout}{imported.stderr}, wanted {wanted}"
    called = _run(environment / "bin" / "calibox", "--help", folder=environment)  # loads every command
    if called.returncode != 0:
        yield f"{wheel.name}: calibox --help says {called.stderr}"


def check_relocked(root: Path, folder: Path) -> Iterator[str]:
    """Makes the locks anew (this asks the package index) and compares them with those of the checkout."""
    folder.mkdir(parents=True)
    for name in LOCKS:
        shutil.copy(root / "docker" / "locks" / f"{name}.txt", folder)  # uv keeps what still fits
    made = _run(root / "docker" / "lock.sh", folder, uv=str(Path(sys.executable).with_name("uv")))
    if made.returncode != 0:
        yield f"docker/lock.sh does not end well:\n{made.stderr}"
        return
    for name in LOCKS:
        anew, here = pins((folder / f"{name}.txt").read_text()), pins(lock_text(root, name))
        changed = sorted({package for package, _ in anew.items() ^ here.items()})
        if changed:
            yield f"docker/locks/{name}.txt: {', '.join(changed)} would change: run `make locks`"


def _stem(root: Path) -> str:
    return f"{project(root)['name']}-{version(root)}"


def _run(*words: str | Path, folder: Path | None = None, uv: str = "uv") -> subprocess.CompletedProcess[str]:
    """Runs a command with neither this checkout nor the caller's settings on Python's path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CALIBOX_"))}
    return subprocess.run(words, cwd=folder, env=kept | {"UV": uv}, capture_output=True, text=True, check=False)
