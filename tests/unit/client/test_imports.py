"""What importing the client loads, asked of a fresh interpreter."""

import subprocess
import sys

import pytest

import calibox_client

_ASK = """
import sys
{code}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded(code: str) -> set[str]:
    """Top-level packages in memory after ``code``."""
    done = subprocess.run([sys.executable, "-c", _ASK.format(code=code)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_sdk_loads_nothing_of_ours_and_nothing_heavy() -> None:
    everything = f"from calibox_client import {', '.join(calibox_client.__all__)}"
    packages = loaded(everything)
    assert {"calibox_client", "httpx2", "numpy", "PIL"} <= packages  # the question was understood
    ours = {name for name in packages if name.startswith("calibox")}
    assert ours == {"calibox_client"}
    assert packages.isdisjoint({"pydantic", "torch", "cv2", "onnxruntime", "fastapi", "supervision", "pycocotools"})


@pytest.mark.parametrize(
    "module",
    [
        *(f"calibox_client.commands.{name}_command" for name in ("detect", "bench", "models")),
        "calibox_client.evaluation.commands",
    ],
)
def test_listing_the_commands_loads_neither_numpy_nor_http(module: str) -> None:
    packages = loaded(f"import {module}")
    assert "typer" in packages
    assert packages.isdisjoint({"numpy", "httpx2", "PIL", "pydantic", "pycocotools"})


def test_every_public_name_is_there() -> None:
    for name in calibox_client.__all__:
        assert getattr(calibox_client, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = calibox_client.Clinet  # type: ignore[attr-defined]
