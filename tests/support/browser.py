"""Chromium for tests of the page, and what every one of them checks: no error, no request to elsewhere."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

REQUIRE_VARIABLE = "CALIBOX_REQUIRE_BROWSER"  # "1" where a browser must be there: want of it is then a failure
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Root has no sandbox of its own, and nothing may look for updates or other hosts.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000  # for what takes well under a second on an idle machine


def browser_path() -> str:
    """Where Chromium is; without it the calling test is skipped, or fails where a browser is required."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    reason = f"no browser ({', '.join(NAMES)}) is on the PATH; on Debian: apt install chromium"
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{REQUIRE_VARIABLE}=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    path = browser_path()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def watched_page(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """A page in a browser context of its own, opened at ``url``.

    At the end: no uncaught error, nothing in the console but the notes of the network about refusals, and not one
    request to another origin.
    """
    opened = browser.new_context(**context)
    opened.set_default_timeout(PATIENCE_MS)
    page = opened.new_page()
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            message.type in ("error", "warning")
            and "Failed to load resource" not in message.text
            and errors.append(message.text)
        ),
    )
    opened.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    opened.close()
    assert errors == []
    assert [address for address in asked if not address.startswith((f"{url}/", f"blob:{url}/"))] == []
    assert asked
