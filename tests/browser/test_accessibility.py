"""What axe-core finds on the page: names, roles, contrast, order; light and dark, in each of its states."""

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import watched_page
from tests.support.page_steps import choose, drop, rank_by, wait_for_boxes

COLOURS_ONLY = {"runOnly": ["color-contrast"]}  # all that the dark scheme changes


def violations(page: Page, scheme: str) -> list[str]:
    """One line for each rule that is broken, with the elements that break it."""
    found = Axe().run(page, options=COLOURS_ONLY if scheme == "dark" else None).response["violations"]
    return [f"{rule['id']}: {[node['html'][:120] for node in rule['nodes']]}" for rule in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_state_of_the_page_breaks_a_rule(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> None:
    # axe-core makes markup, which the page's own policy forbids to every script.
    with watched_page(browser, url, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce") as page:
        expect(page.locator("#sample")).to_be_visible()
        assert violations(page, scheme) == []
        choose(page)
        page.get_by_text("API key", exact=True).click()
        page.get_by_role("button", name="Box 1, WBC").click()
        assert violations(page, scheme) == []
        rank_by(page, "Side by side")
        expect(page.locator("canvas")).to_have_count(3)
        wait_for_boxes(page)
        assert violations(page, scheme) == []
        drop(page, b"no picture", "notes.txt", "text/plain")
        expect(page.get_by_role("alert")).not_to_be_empty()
        assert violations(page, scheme) == []


def test_the_check_sees_a_missing_name_and_a_poor_contrast(browser: Browser, url: str) -> None:
    with watched_page(browser, url, bypass_csp=True) as page:
        page.evaluate("document.querySelector('label[for=model]').remove()")
        page.evaluate("document.querySelector('.hint').style.color = '#bbb'")
        assert sorted(line.partition(":")[0] for line in violations(page, "light")) == ["color-contrast", "select-name"]


@pytest.mark.parametrize("width", [320, 1360])  # 320 pixels: WCAG 1.4.10, a page at 400 % zoom
def test_nothing_sticks_out_of_the_window(browser: Browser, url: str, width: int) -> None:
    with watched_page(browser, url, viewport={"width": width, "height": 800}) as page:
        choose(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
