"""The pages about the API, in a browser that is let nowhere but to the server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import watched_page
from tests.support.page_steps import EXAMPLE, ask


@contextmanager
def opened(browser: Browser, url: str, path: str) -> Iterator[Page]:
    """A page about the API; what is asked of other hosts is cut off, and fails the test."""

    def guard(route: Route) -> None:
        if route.request.url.startswith(f"{url}/"):
            route.continue_()
        else:
            route.abort()

    with watched_page(browser, url) as page:
        page.context.route("**/*", guard)
        page.goto(f"{url}{path}")
        yield page


def test_detection_can_be_read_about_and_tried_without_the_internet(browser: Browser, url: str) -> None:
    with opened(browser, url, "/docs") as page:
        operation = page.locator("#operations-default-detect_v1_detect_post")
        operation.get_by_text("Detect objects in one or many images").click()
        operation.locator("tr[data-param-name=score_threshold] input").fill("0.5")
        operation.locator("input[type=file]").set_input_files(EXAMPLE)
        operation.get_by_role("button", name="Execute").click()
        shown = operation.locator(".live-responses-table .response-col_description code").first
        expect(shown).to_contain_text("localization_score")
        found = json.loads(shown.inner_text())["results"][0]["detections"]
    assert found == ask(url, EXAMPLE.read_bytes(), score_threshold=0.5)
    assert found


def test_the_reference_shows_every_protocol_without_the_internet(browser: Browser, url: str) -> None:
    with opened(browser, url, "/redoc") as page:
        for heading in ("Detect objects in one or many images", "Tensors to tensors"):
            expect(page.get_by_role("heading", name=heading).first).to_be_visible()
