"""What a person does on the page and reads from it."""

import base64
import functools
import re
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Page, expect

from tests.support.browser import PATIENCE_MS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "models" / "bccd" / "1" / "example.jpg"

# A file as the browser's own event carries it; the bytes come as base64.
_TRANSFER = """([base64, name, type]) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  return transfer;
}"""


@functools.cache  # the same request has the same answer
def ask(url: str, image: bytes, **parameters: object) -> list[dict[str, Any]]:
    """The detections that the server gives without the page."""
    query = {name: str(value) for name, value in parameters.items()}
    answer = httpx2.post(f"{url}/v1/detect", params=query, content=image, timeout=30)
    assert answer.status_code == 200, answer.text
    detections: list[dict[str, Any]] = answer.json()["results"][0]["detections"]
    return detections


def choose(page: Page, path: Path = EXAMPLE) -> None:
    """Chooses a file and waits for its boxes."""
    page.set_input_files("#file", path)
    wait_for_boxes(page)


def wait_for_boxes(page: Page) -> None:
    """Until the boxes of the newest request are shown."""
    expect(page.locator("#panels:not([aria-busy]) canvas").first).to_be_visible()
    expect(page.locator("#status")).to_contain_text(re.compile(r"\d+ box"))


def rank_by(page: Page, ranking: str) -> None:
    """Chooses a ranking by its words and waits for its boxes."""
    page.get_by_role("radio", name=ranking, exact=True).check(force=True)
    wait_for_boxes(page)


def drop(page: Page, data: bytes, name: str, kind: str) -> None:
    """Drops a file onto the page."""
    transfer = page.evaluate_handle(_TRANSFER, [base64.b64encode(data).decode(), name, kind])
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("main", event, {"dataTransfer": transfer})


def rows(page: Page) -> list[list[str]]:
    """The cells of the table's rows as they read, at one moment."""
    read = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    found: list[list[str]] = page.locator("tbody tr").evaluate_all(read)
    return found


def expect_rows(page: Page, expected: list[list[str]]) -> None:
    """Waits until the table reads so, and says how it differs if it never does."""
    for _ in range(PATIENCE_MS // 100):
        if rows(page) == expected:
            return
        page.wait_for_timeout(100)
    assert rows(page) == expected


def as_rows(detections: list[dict[str, Any]]) -> list[list[str]]:
    """The rows that the table of one ranking has for these detections."""
    scores = "score", "classification_score", "localization_score"
    return [
        [str(rank), one["label"], *(f"{one[name]:.3f}" for name in scores), ", ".join(f"{v:.1f}" for v in one["box"])]
        for rank, one in enumerate(detections, start=1)
    ]
