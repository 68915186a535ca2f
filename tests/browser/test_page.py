"""The page at `/` in a real browser, against a real server with the default bundle."""

import base64
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from calibox_server.keys import make_key
from tests.support.browser import watched_page
from tests.support.bundles import make_tiny_bundle
from tests.support.live_server import live_server
from tests.support.manifests import small_point
from tests.support.page_steps import EXAMPLE, as_rows, ask, choose, drop, expect_rows, rank_by, rows, wait_for_boxes
from tests.support.pictures import encoded

PICTURE = EXAMPLE.read_bytes()
COLOURS = {1: (77, 178, 255), 2: (255, 200, 61), 3: (61, 220, 151)}  # of the category ids 1, 2, 3
CLIPBOARD = ["clipboard-read", "clipboard-write"]


def canvas_pixels(page: Page) -> Image.Image:
    """What the first canvas shows."""
    address = page.locator("canvas").first.evaluate("(canvas) => canvas.toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


def press_until(page: Page, key: str, done: Callable[[], bool]) -> None:
    """Presses Tab or an arrow until the focus is where it should be."""
    for _ in range(60):
        if done():
            return
        page.keyboard.press(key)
    pytest.fail(f"{key} never got there")


def has_focus(page: Page, selector: str) -> bool:
    found: bool = page.evaluate("(selector) => document.activeElement.matches(selector)", selector)
    return found


def test_a_dropped_picture_shows_its_boxes_with_three_scores(page: Page, url: str) -> None:
    drop(page, PICTURE, "cells.jpg", "image/jpeg")
    wait_for_boxes(page)
    expected = ask(url, PICTURE)
    assert len(expected) > 10
    expect_rows(page, as_rows(expected))
    expect(page.locator("#status")).to_have_text(f"{len(expected)} boxes in cells.jpg by the combined score")
    expect(page.locator("canvas")).to_have_attribute(
        "aria-label", f"cells.jpg by the combined score: {len(expected)} boxes, listed in the table below"
    )


def test_boxes_are_drawn_where_they_are(page: Page, url: str) -> None:
    choose(page)
    page.select_option("#tags", "none")
    shown = canvas_pixels(page)
    scale = shown.width / 640
    for one in ask(url, PICTURE):
        x1, y1, _, y2 = (value * scale for value in one["box"])
        across = [x for x in range(round(x1) - 3, round(x1) + 4) if 0 <= x < shown.width]
        down = range(round(y1) + 4, round(y2) - 4)  # another box may cover a part of the edge
        edge = [{shown.getpixel((x, y)) for x in across} for y in down]
        assert sum(COLOURS[one["label_id"]] in line for line in edge) > len(edge) / 4, one


def test_sliders_change_the_result(page: Page, url: str) -> None:
    choose(page)
    for name, key, presses in (
        ("score_threshold", "ArrowRight", 30),
        ("alpha", "ArrowLeft", 20),
        ("iou_threshold", "End", 1),
    ):
        page.focus(f"#{name}")
        for _ in range(presses):
            page.keyboard.press(key)
    settings = {"score_threshold": 0.6, "alpha": 0.3, "iou_threshold": 1}
    expected = as_rows(ask(url, PICTURE, fusion="geometric", **settings))
    assert len(expected) != len(ask(url, PICTURE))
    expect_rows(page, expected)
    page.get_by_role("button", name="Back to the model's settings").click()
    expect(page.locator("tbody tr")).to_have_count(len(ask(url, PICTURE)))


def test_each_fusion_shows_its_own_parameter_and_ranks_by_it(page: Page, url: str) -> None:
    choose(page)
    for fusion, own in (("product", None), ("power", "alpha"), ("gaussian", "sigma")):
        page.select_option("#fusion", fusion)
        for parameter in ("alpha", "sigma"):
            assert page.locator(f"#{parameter}").is_visible() == (parameter == own)
        expected = as_rows(ask(url, PICTURE, fusion=fusion))
        expect_rows(page, expected)


def never_answer(_: Route) -> None:
    """Holds a request."""


def test_a_moving_slider_asks_when_it_rests_and_leaves_the_old_request(page: Page) -> None:
    choose(page)
    left: list[str | None] = []
    asked: list[str] = []
    page.on("requestfailed", lambda request: left.append(request.failure))
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/v1/detect?*score_threshold=0.32*", never_answer)
    page.focus("#score_threshold")
    with page.expect_request("**/v1/detect?*score_threshold=0.32*"):
        for _ in range(2):
            page.keyboard.press("ArrowRight")
    with page.expect_response("**/v1/detect?*score_threshold=0.62*"):
        for _ in range(30):
            page.keyboard.press("ArrowRight")
    wait_for_boxes(page)
    assert min(float(row[2]) for row in rows(page)) >= 0.62
    assert set(left) == {"net::ERR_ABORTED"}
    assert len(asked) < 32  # steps; on a quiet machine 2


def test_the_ranking_changes_the_order_and_which_boxes_there_are(page: Page, url: str) -> None:
    choose(page)
    seen = [rows(page)]
    for ranking in ("Classification", "Localization", "Combined"):
        expected = as_rows(ask(url, PICTURE, fusion="geometric" if ranking == "Combined" else ranking.lower()))
        rank_by(page, ranking)
        expect_rows(page, expected)
        sorted_column = page.locator("th[aria-sort=descending]")
        expect(sorted_column).to_have_text("Combined score" if ranking == "Combined" else ranking)
        seen.append(expected)
    assert seen[0] == seen[3]
    assert [row[5] for row in seen[0]] != [row[5] for row in seen[1]]
    assert len(seen[2]) != len(seen[0])


def test_side_by_side_says_what_appears_what_is_gone_and_who_moves_up(page: Page, url: str) -> None:
    choose(page)
    rank_by(page, "Side by side")
    expect(page.locator("canvas")).to_have_count(3)
    wait_for_boxes(page)
    found = {
        ranking: ask(url, PICTURE, fusion="geometric" if ranking == "combined" else ranking)
        for ranking in ("classification", "combined", "localization")
    }
    shown = rows(page)
    columns = dict(zip(found, (2, 3, 4), strict=True))
    for ranking, detections in found.items():
        cells = [(row[columns[ranking]], row[1]) for row in shown if row[columns[ranking]] != "not found"]
        ranks = sorted((int(cell.split()[0]), float(cell.split()[2]), label) for cell, label in cells)
        assert ranks == [(rank, round(one["score"], 3), one["label"]) for rank, one in enumerate(detections, start=1)]
    assert [int(row[3].split()[0]) for row in shown[: len(found["combined"])]] == list(
        range(1, len(found["combined"]) + 1)
    )
    for row in shown:
        if "not found" not in (row[2], row[3]):
            change = int(row[3].split()[0]) - int(row[2].split()[0])
            assert ("\u25b2" in row[2], "\u25bc" in row[2]) == (change > 0, change < 0), row
    only = [row for row in shown if row[3] == "not found" and row[2] != "not found"]
    gone = [row for row in shown if row[3] != "not found" and row[2] == "not found"]
    assert only or gone
    caption = page.locator("figcaption").first
    expect(caption).to_contain_text(f"{len(found['classification'])} boxes: {len(only)} only here, {len(gone)} gone")


def test_a_row_and_its_box_light_up_together_and_a_press_keeps_it(page: Page) -> None:
    choose(page)
    plain = canvas_pixels(page)
    page.hover("tbody tr:nth-child(2)")
    lit = canvas_pixels(page)
    assert lit.tobytes() != plain.tobytes()
    expect(page.locator("tr.lit")).to_have_count(1)
    page.hover("h1")
    expect(page.locator("tr.lit")).to_have_count(0)
    assert canvas_pixels(page).tobytes() == plain.tobytes()
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 200 / 640, box["y"] + box["height"] * 210 / 480)  # inside the first
    expect(page.locator("tr.lit th")).to_have_text("1")
    page.get_by_role("button", name="Box 3, WBC").click()
    page.hover("h1")
    expect(page.get_by_role("button", name="Box 3, WBC")).to_have_attribute("aria-pressed", "true")
    rank_by(page, "Classification")  # there it is the third, too: the mark stays with the object
    expect(page.locator("button[aria-pressed=true]")).to_have_count(1)
    expect(page.locator("tr:has(button[aria-pressed=true]) td").first).to_have_text("WBC")


def test_a_pasted_picture_shows_its_boxes_and_can_be_saved(browser: Browser, url: str, tmp_path: Path) -> None:
    png = encoded(Image.open(EXAMPLE), "PNG")
    with watched_page(browser, url, permissions=CLIPBOARD) as page:
        page.evaluate(
            """async (base64) => {
              const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
              const blob = new Blob([bytes], { type: "image/png" });
              await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
            }""",
            base64.b64encode(png).decode(),
        )
        page.keyboard.press("Control+V")
        wait_for_boxes(page)
        expect_rows(page, as_rows(ask(url, PICTURE)))  # PNG keeps what was decoded
        with page.expect_download() as download:
            page.get_by_role("link", name="Save it as pasted.png").click()
        download.value.save_as(tmp_path / "pasted.png")
        with Image.open(tmp_path / "pasted.png") as saved, Image.open(EXAMPLE) as original:
            assert saved.convert("RGB").tobytes() == original.convert("RGB").tobytes()


def copied(page: Page, what: str) -> str:
    page.get_by_role("button", name=f"Copy the {what}").click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_the_copied_lines_run_and_give_the_same_boxes(
    browser: Browser, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "it's a cell.jpg"
    (tmp_path / name).write_bytes(PICTURE)
    with watched_page(browser, url, permissions=CLIPBOARD) as page:
        choose(page, tmp_path / name)
        page.focus("#alpha")
        page.keyboard.press("Home")
        page.select_option("#fusion", "power")
        expect(page.locator("#curl")).to_contain_text("fusion=power&alpha=0&")
        expect_rows(page, as_rows(ask(url, PICTURE, fusion="power", alpha=0)))
        shown, curl, python = rows(page), copied(page, "curl line"), copied(page, "Python lines")
    done = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert as_rows(json.loads(done.stdout)["results"][0]["detections"]) == shown
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(python, "copied", "exec"), names)
    numbers = [
        f"{v:.3f}" for one in names["found"] for v in (one.score, one.classification_score, one.localization_score)
    ]
    assert numbers == [number for row in shown for number in row[2:5]]


def test_everything_can_be_done_with_the_keyboard(page: Page, url: str) -> None:
    press_until(page, "Tab", lambda: has_focus(page, ".skip"))
    press_until(page, "Tab", lambda: has_focus(page, "#file"))
    press_until(page, "Tab", lambda: has_focus(page, "#example"))
    page.keyboard.press("Enter")
    wait_for_boxes(page)
    press_until(page, "Tab", lambda: has_focus(page, "input[value=combined]"))
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#status")).to_contain_text("by classification")
    press_until(page, "Tab", lambda: has_focus(page, "#score_threshold"))
    page.keyboard.press("PageUp")
    raised = as_rows(ask(url, PICTURE, fusion="classification", score_threshold=0.4))
    expect(page.locator("tbody tr")).to_have_count(len(raised))
    press_until(page, "Tab", lambda: has_focus(page, "tbody button"))
    page.keyboard.press("ArrowDown")
    expect(page.locator("tr.lit th")).to_have_text("2")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name=f"Box 2, {raised[1][1]}")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("End")
    expect(page.locator("tr.lit th")).to_have_text(str(len(raised)))
    page.keyboard.press("Shift+Tab")  # the table is one stop
    assert has_focus(page, "#python")


def test_what_is_no_picture_gets_the_servers_sentence(page: Page) -> None:
    choose(page)
    drop(page, b"no picture at all", "notes.txt", "text/plain")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("unsupported_media_type")
    expect(page.locator("tbody tr")).to_have_count(0)
    choose(page)
    expect(alert).to_be_empty()
    page.evaluate("document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")
    expect(alert).to_contain_text("There is no picture on the clipboard")
    assert rows(page)  # what was there stays


def test_a_server_that_is_gone_is_said_and_can_be_asked_again(page: Page) -> None:
    page.route("**/v1/detect?*", lambda route: route.abort("connectionrefused"))
    page.set_input_files("#file", EXAMPLE)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    page.unroute("**/v1/detect?*")
    page.get_by_role("button", name="Try again").click()
    wait_for_boxes(page)
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_turned_photograph_stands_upright_under_its_boxes(page: Page, tmp_path: Path) -> None:
    half = Image.new("RGB", (200, 100), (200, 30, 30))
    half.paste((30, 30, 200), (100, 0, 200, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: red is on top, blue below
    half.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    choose(page, tmp_path / "turned.jpg")
    page.select_option("#tags", "none")
    shown = canvas_pixels(page)
    assert abs(shown.height - 2 * shown.width) <= 2
    top, bottom = (shown.getpixel((shown.width // 2, round(shown.height * part))) for part in (0.25, 0.75))
    assert top[0] > 150 > top[2]
    assert bottom[2] > 150 > bottom[0]


def test_a_format_that_the_browser_does_not_show_still_gets_its_boxes(page: Page, url: str, tmp_path: Path) -> None:
    with Image.open(EXAMPLE) as image:
        image.save(tmp_path / "cells.tiff")
    choose(page, tmp_path / "cells.tiff")
    expect_rows(page, as_rows(ask(url, (tmp_path / "cells.tiff").read_bytes())))


def test_the_times_of_the_server_are_shown(page: Page) -> None:
    with page.expect_response("**/v1/detect?*") as answer:
        choose(page)
    stages = dict(part.split(";dur=") for part in answer.value.headers["server-timing"].split(", ") if ";dur=" in part)
    shown = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert float(shown.pop("round trip").removesuffix(" ms")) >= float(stages["total"]) - 0.1
    assert shown == {stage: f"{float(ms):.1f} ms" for stage, ms in stages.items()}


def test_a_server_with_keys_asks_for_one_and_it_is_in_no_copied_line(browser: Browser, tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    key, line = make_key("page")
    with live_server(tmp_path, api_keys=line, log_level="warning") as url, watched_page(browser, url) as page:
        expect(page.get_by_role("alert")).to_contain_text("this server asks for a key")
        page.get_by_label("Key, where the server asks for one").fill(key)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_be_empty()
        choose(page)
        lines = page.locator("pre").all_inner_texts()
        assert all(key not in text and "CALIBOX_KEY" in text for text in lines)
        assert key not in page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")


def test_a_model_is_chosen_and_its_settings_are_its_own(browser: Browser, tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path, name="first")
    make_tiny_bundle(tmp_path, name="second", classes=2, seed=1)
    with live_server(tmp_path, log_level="warning") as url, watched_page(browser, url) as page:
        choose(page)
        expect_rows(page, as_rows(ask(url, PICTURE, model="first")))
        assert not page.locator("#example").is_visible()  # these bundles bring no picture
        page.get_by_label("Model", exact=True).select_option("second/1")
        second = as_rows(ask(url, PICTURE, model="second"))
        expect_rows(page, second)


def test_an_operating_point_is_chosen_from_a_list(browser: Browser, tmp_path: Path) -> None:
    strict = small_point("precision90", score_threshold=0.8, class_thresholds={"class-0": 0.4})
    make_tiny_bundle(tmp_path, schema_version=2, operating_points=(strict,))
    with live_server(tmp_path) as url, watched_page(browser, url) as page:
        drop(page, PICTURE, "cells.jpg", "image/jpeg")
        wait_for_boxes(page)
        page.get_by_label("Operating point").select_option("precision90")
        expect(page.locator("#curl")).to_contain_text("operating_point=precision90")
        expect_rows(page, as_rows(ask(url, PICTURE, operating_point="precision90")))
        expect(page.locator("#fusion")).to_have_value("power")
        page.locator("#score_threshold").fill("0.7")
        expect(page.locator("#operating_point")).to_have_value("")
        expect(page.locator("#curl")).to_contain_text("fusion=power")


def test_a_model_without_operating_points_has_no_list_of_them(page: Page) -> None:
    expect(page.locator("#about")).not_to_be_empty()
    expect(page.get_by_label("Operating point")).to_be_hidden()
