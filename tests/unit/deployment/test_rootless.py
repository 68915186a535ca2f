"""Building and starting images without a container engine: the parts that need none of its tools."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.images.confined import Image, started
from benchmarks.images.pictures import FORMATS, write_pictures
from benchmarks.images.sizes import largest, megabytes
from tests.support.deployment import DOCKER, ROOT, arguments, stages

SCRIPT = DOCKER / "rootless-build.sh"
# The tree is this machine's own root: the confinement is what is tried.
CONFIG = {"User": "10001:10001", "Env": ["PATH=/usr/bin:/bin", "WHO=image"], "Entrypoint": ["sleep"], "Cmd": ["60"]}


def build(*words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({} if path is None else {"PATH": path})
    return subprocess.run(
        [shutil.which("bash") or "bash", SCRIPT, *words], env=environment, capture_output=True, text=True, check=False
    )


def test_an_option_that_does_not_exist_is_told() -> None:
    done = build("--wrok", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --wrok is no option")


def test_a_tool_that_is_missing_is_told_with_the_way_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "")
    done = build(path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "error: buildah is not here; on Debian: apt-get install buildah\n"


def test_the_script_hands_over_arguments_that_the_dockerfile_has() -> None:
    declared = [
        line.split()[1].partition("=")[0]
        for line in (DOCKER / "Dockerfile").read_text().splitlines()
        if line.startswith("ARG ")
    ]
    handed = [
        word.strip('"').partition("=")[0]
        for word in SCRIPT.read_text().split()
        if word.startswith('"') and "_IMAGE=" in word
    ]
    assert handed == ["PYTHON_IMAGE", "BUILD_IMAGE"]
    assert {*handed, "CMAKE_BUILD_PARALLEL_LEVEL"} <= set(declared)


def test_what_is_never_loaded_is_trimmed_and_the_rest_stays(tmp_path: Path) -> None:
    packages = tmp_path / "env/lib/python3.11/site-packages"
    gone = [
        *("numpy/_core/tests/test_x.py", "numpy/__init__.pyi", "numpy/_core/include/numpy/a.h", "numpy/f2py/x.py"),
        *("onnxruntime/capi/libonnxruntime.so.1.31.1", "onnxruntime/transformers/x.py", "onnxruntime/tools/x.py"),
    ]
    kept = [
        *(
            "numpy/__init__.py",
            "numpy/testing/__init__.py",
            "numpy/testing/tests_of.py",
            "uvloop/loop.so",
            "yaml/_y.so",
        ),
        *("onnxruntime/capi/libonnxruntime_providers_shared.so", "onnxruntime/capi/state.so", "httptools/parser/p.so"),
    ]
    for name in gone + kept:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("")
    strip = tmp_path / "bin/strip"
    strip.parent.mkdir()
    strip.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/called"\n')
    strip.chmod(0o755)
    path = f"{strip.parent}:{os.environ['PATH']}"
    subprocess.run(["sh", DOCKER / "trim.sh", tmp_path / "env"], env={"PATH": path}, check=True)
    left = {str(file.relative_to(packages)) for file in packages.rglob("*") if file.is_file()}
    assert left == set(kept)
    called = (strip.parent / "called").read_text().splitlines()
    assert [Path(line.split()[1]).name for line in called] == ["loop.so", "_y.so", "p.so"]


def test_packages_that_an_image_lacks_are_not_missed(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.12/site-packages"
    (packages / "numpy").mkdir(parents=True)
    subprocess.run(["sh", DOCKER / "trim.sh", tmp_path], check=True)
    assert [path.name for path in packages.iterdir()] == ["numpy"]


@pytest.mark.parametrize("target", ["cpu", "eval"])
def test_the_slim_images_are_trimmed_and_hold_together(target: str) -> None:
    commands = " ".join(text for word, text in stages()[f"{target}-packages"].instructions if word == "RUN")
    assert "pip --python /opt/calibox/bin/python check" in commands
    assert "sh /locks/trim.sh /opt/calibox" in commands


def test_both_ways_to_opencv_are_held_to_the_same_hashes() -> None:
    command = stages()["opencv"].last("RUN")
    assert command is not None
    assert command.startswith("set -- --no-cache-dir --no-deps --require-hashes --requirement /locks/opencv.txt;")
    assert re.findall(r'(\w+)\) pip download [^"]*"\$@"', command) == ["wheel", "source"]
    assert arguments()["OPENCV"] in ("wheel", "source")


@pytest.fixture
def image() -> Image:
    if shutil.which("bwrap") is None or os.geteuid() != 0:
        pytest.skip("bubblewrap is not here, or this is not root")
    if not Path("/var/cache/calibox").is_dir():
        Path("/var/cache/calibox").mkdir()  # where the image has it; bubblewrap mounts over it
    return Image(Path("/"), CONFIG)


def test_a_tree_is_run_as_the_images_user_on_a_root_that_nobody_writes(image: Image, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("mounted\n")
    tmp_path.chmod(0o755)
    script = "id -u; id -g; echo $WHO $MORE; cat /mnt/seen; touch /etc/x 2>&1; touch /tmp/x /var/cache/calibox/x && env"
    done = image.run(["sh", "-c", script], {"MORE": "caller"}, {"/mnt": tmp_path})
    assert done.status == 0, done.errors
    lines = done.output.splitlines()
    assert lines[:4] == ["10001", "10001", "image caller", "mounted"]
    assert lines[4].endswith("Read-only file system")
    assert "HOME=" not in done.output  # nothing of the caller's environment


def test_its_program_gets_signals_and_has_no_rights(image: Image, tmp_path: Path) -> None:
    with started(image, {}, {}, tmp_path / "log") as running:
        while Path(f"/proc/{running.pid}/cmdline").read_text() != "sleep\x0060\x00":  # until setpriv has become it
            pass
        facts = running.facts()
        assert facts["Uid"].split() == ["10001"] * 4
        assert {facts[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert (Path(f"/proc/{running.pid}")).exists()
    assert not Path(f"/proc/{running.pid}").exists()


def test_what_buildah_says_of_an_image_is_read(tmp_path: Path) -> None:
    config = CONFIG | {"Healthcheck": {"Test": ["CMD", "python", "/opt/health.py"]}}
    (tmp_path / "image.json").write_text(json.dumps({"Docker": {"config": config}}))
    read = Image.read(tmp_path)
    assert read.start == ["sleep", "60"]
    assert read.health == ["python", "/opt/health.py"]


def test_sizes_count_each_file_once_and_a_package_with_its_libraries(tmp_path: Path) -> None:
    for name, size in (("one/a", 1_000_000), ("one.libs/b", 500_000), ("two/c", 250_000)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "two/again").hardlink_to(tmp_path / "two/c")
    (tmp_path / "two/link").symlink_to(tmp_path / "one/a")
    assert megabytes(tmp_path) == 1.75
    assert largest(tmp_path, 5) == [("one", 1.5), ("two", 0.25)]


def test_pictures_come_in_every_format(tmp_path: Path) -> None:
    write_pictures(tmp_path / "all", ROOT / "models/bccd/1/example.jpg", [(9, 7), (4, 8)])
    names = [path.name for path in (tmp_path / "all").iterdir()]
    assert len(names) == 3 * 2 * len(FORMATS)
    assert {name.rpartition(".")[2] for name in names} == {kind.lower() for kind in FORMATS}
