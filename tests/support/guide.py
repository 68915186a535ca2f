"""The code blocks of a page of documentation."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
ADDRESS = "http://127.0.0.1:8000"  # of the server that pages speak of
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str, url: str) -> list[str]:
    """A page's code in one language, with the address of the running server."""
    text = (DOCS / page).read_text()
    found = [code.replace(ADDRESS, url) for kind, code in _BLOCK.findall(text) if kind == language]
    assert found, f"{page} holds no {language} blocks"
    return found
