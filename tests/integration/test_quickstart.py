"""The quickstart notebook, run cell by cell against the default model as it is served."""

import ast
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from calibox_client import Detections
from tests.support.live_server import live_server

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "clients" / "python" / "examples" / "quickstart.ipynb"


def cells() -> list[dict[str, Any]]:
    found = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert found
    return found


def run(source: str, names: dict[str, Any]) -> None:
    """As a notebook runs a cell: `await` stands outside of functions."""
    code = compile(source, str(NOTEBOOK), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


def test_the_quickstart_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    monkeypatch.chdir(NOTEBOOK.parent)
    with live_server(ROOT / "models") as url:
        monkeypatch.setenv("CALIBOX_SERVER", url)
        for cell in cells():
            run("".join(cell["source"]), names)
    assert isinstance(names["found"], Detections)
    assert len(names["found"]) > 5
    assert len(names["later"]) == 4
    assert set(names["rankings"]) == {"classification", "product", "localization"}
    assert names["refusal"].code == "unsupported_media_type"


def test_the_quickstart_is_kept_without_its_outputs() -> None:
    assert [cell for cell in cells() if cell["outputs"] or cell["execution_count"] is not None] == []
