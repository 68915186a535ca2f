"""The frame of the command line: light, versioned, and honest about extras that are missing."""

import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points, version

import pytest
from typer.main import get_command

import calibox_core.cli as cli
from calibox_core.errors import BundleError

COMMANDS = {
    "train",
    "train-iou-net",
    "reproduce",
    "export",
    "verify",
    "attach-quality",
    "calibrate",
    "build",
    "quantize",
    "serve",
    "models",
    "api-key",
    "detect",
    "bench",
    "eval",
}
ADDED = {"models.served"}  # to the group of another room
# Packages that take long to import or belong to an extra.
HEAVY = {"torch", "torchvision", "lightning", "onnx", "onnxruntime", "onnxscript", "fastapi", "cv2", "pycocotools"}


def in_a_fresh_interpreter(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def run_calibox(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["calibox", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = f"""
import sys
from calibox_core.cli import main
sys.argv = ["calibox", "--help"]
try:
    main()
finally:
    print("LOADED", sorted(set(sys.modules) & {HEAVY!r}))
"""
    done = in_a_fresh_interpreter(code)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
    listed = {line.strip("│ ").split(" ")[0] for line in done.stdout.splitlines()}
    assert listed >= COMMANDS


def test_every_registered_command_works_without_any_extra() -> None:
    """On a base install `calibox --help` must work: its command modules may import only what that install has."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY | {"uvicorn", "starlette", "orjson", "yaml", "simplejpeg", "supervision"}!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from typer.main import get_command
from calibox_core.cli import build_app
print(sorted(get_command(build_app()).commands))
"""
    done = in_a_fresh_interpreter(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(COMMANDS))


def test_the_commands_are_those_of_the_entry_points() -> None:
    assert {entry.name for entry in entry_points(group=cli.COMMAND_GROUP)} == COMMANDS | ADDED


def test_a_room_may_add_a_command_to_the_group_of_another() -> None:
    group = get_command(cli.build_app()).commands["models"]  # type: ignore[attr-defined]
    assert list(group.commands) == ["ls", "verify", "served"]


def test_version_is_the_distributions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_calibox(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"calibox {version('calibox')}\n"


def test_present_modules_need_no_extra() -> None:
    cli.require_extra("detect", "eval", "numpy", "json")


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(cli.MissingExtraError) as caught:
        cli.require_extra("train", "train", "numpy", "no_such_module", "nor_this_one")
    assert str(caught.value) == (
        "`calibox train` needs no_such_module, nor_this_one; install the extra with: pip install 'calibox[train]'"
    )


def fail_on_purpose() -> None:
    """Fails."""
    raise BundleError("the bundle is torn; copy it again")


class AwayError(BundleError):
    """Worth another try later."""

    exit_status = 4


def be_away() -> None:
    """Fails, for now."""
    raise AwayError("nobody is there")


def fail_by_mistake() -> None:
    """Fails, too."""
    raise ZeroDivisionError


@pytest.fixture
def failing_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = [
        EntryPoint("purpose", f"{__name__}:fail_on_purpose", cli.COMMAND_GROUP),
        EntryPoint("away", f"{__name__}:be_away", cli.COMMAND_GROUP),
        EntryPoint("mistake", f"{__name__}:fail_by_mistake", cli.COMMAND_GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: registered)


@pytest.mark.usefixtures("failing_commands")
def test_an_error_raised_on_purpose_ends_with_its_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_calibox(monkeypatch, "purpose") == 1
    assert capsys.readouterr() == ("", "error: the bundle is torn; copy it again\n")
    assert run_calibox(monkeypatch, "away") == 4
    assert capsys.readouterr() == ("", "error: nobody is there\n")


@pytest.mark.usefixtures("failing_commands")
def test_a_mistake_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_calibox(monkeypatch, "mistake")
