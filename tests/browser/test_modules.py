"""The page's pure modules, called in the browser: overlap, matching, lines for the shell and for Python."""

import subprocess
from typing import Any

import pytest
from playwright.sync_api import Page

CURL = {"url": "http://h:1/", "query": "model=m&alpha=0.5", "type": "image/jpeg", "needsKey": False}
PYTHON = {"url": "http://h:1/", "parameters": [["model", "m"], ["alpha", 0.5]], "needsKey": False}
NAMES = [
    "a.jpg",
    "two words.jpg",
    "it's.jpg",
    '"quoted".jpg',
    "-rf",
    "$HOME `id` !!.png",
    "zürich 😀.png",
    "a\\n\nb.jpg",
    "#1;&.png",
]


def call(page: Page, module: str, function: str, *arguments: object) -> Any:
    code = "async ([module, name, values]) => (await import(`/page/${module}.js`))[name](...values)"
    return page.evaluate(code, [module, function, list(arguments)])


def test_overlap(page: Page) -> None:
    for first, second, iou in (
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 50 / 150),
        ([0, 0, 10, 10], [2, 3, 6, 8], 20 / 100),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
    ):
        assert call(page, "ranking", "overlap", first, second) == pytest.approx(iou), (first, second)


def box(label: str, x: float, *, width: float = 10) -> dict[str, Any]:
    return {"label": label, "label_id": 1, "box": [x, 0, x + width, 10]}


def test_an_object_keeps_its_class_overlaps_by_half_and_is_taken_once(page: Page) -> None:
    reference = [box("a", 0), box("b", 0), box("a", 100)]
    # 1 with the first, which is taken for the next (8/12); a half of b is enough; 6/14 of the third is not.
    found = [box("a", 0), box("a", 2), box("b", 5, width=5), box("a", 104), box("a", 300)]
    assert call(page, "ranking", "matchBoxes", reference, found) == [0, -1, 1, -1, -1]


def test_the_difference_of_two_rankings(page: Page) -> None:
    combined = [box("a", 0), box("a", 50), box("b", 90)]
    other = [box("b", 91), box("a", 0), box("c", 200), box("c", 400)]
    objects = call(page, "ranking", "objectsOf", [["combined", combined], ["other", other]])
    ranks = [[one["seen"].get(ranking, {}).get("rank") for ranking in ("combined", "other")] for one in objects]
    assert ranks == [[1, 2], [2, None], [3, 1], [None, 3], [None, 4]]
    difference = call(page, "ranking", "difference", objects, "combined", "other")
    assert difference == {"same": 2, "moved": 1, "only": 2, "gone": 1}


def test_file_names_survive_the_shell(page: Page) -> None:
    shown = [call(page, "requests", "curlLines", {**CURL, "name": name}) for name in NAMES]
    script = "curl() { printf '%s\\0' \"$@\"; }\n" + "\n".join(shown)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    files = [f"./{name}" if name.startswith("-") else name for name in NAMES]
    fixed = ["http://h:1/v1/detect?model=m&alpha=0.5", "-H", "Content-Type: image/jpeg", "--data-binary"]
    assert done.stdout.split("\0")[:-1] == [word for file in files for word in (*fixed, f"@{file}")]


def test_file_names_survive_python(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Client:
        def __init__(self, url: str, headers: object = None) -> None:
            asked.append((url, headers))

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def detect(self, image: str, **parameters: object) -> list[Any]:
            asked.append((image, parameters))
            return []

    monkeypatch.setattr("calibox_client.Client", Client, raising=False)
    monkeypatch.setenv("CALIBOX_KEY", "k")
    for name in NAMES:
        for needs_key in (False, True):
            lines = call(page, "requests", "pythonLines", {**PYTHON, "name": name, "needsKey": needs_key})
            exec(compile(lines, "copied", "exec"), {})
            headers = {"Authorization": "Bearer k"} if needs_key else None
            assert asked == [("http://h:1", headers), (name, {"model": "m", "alpha": 0.5})]
            asked.clear()


def test_server_timing_is_read_whatever_else_it_says(page: Page) -> None:
    header = 'decode;dur=1.5, cache;desc="no, none", queue;desc="waiting";dur=0.25, total;dur="12"'
    assert call(page, "api", "readServerTiming", header) == [["decode", 1.5], ["queue", 0.25], ["total", 12]]


def model(**changes: object) -> dict[str, Any]:
    fusion = {"name": "power", "alpha": 2.0, "sigma": 0.7}
    fixed = {"score_threshold": 0.123456789, "iou_threshold": 0.6, "refinement": None}
    return {"name": "m", "version": "3", "fusion": fusion, **fixed, **changes}


def test_what_is_asked_has_the_digits_of_the_manifest_and_the_fusions_own_parameter(page: Page) -> None:
    settings = call(page, "controls", "settingsOf", model())
    asked = call(page, "requests", "parametersOf", model(), settings, "combined")
    named = [["model", "m"], ["version", "3"], ["fusion", "power"], ["alpha", 2]]
    assert asked == [*named, ["score_threshold", 0.123456789], ["iou_threshold", 0.6]]
    by_fit = call(page, "requests", "parametersOf", model(), settings, "localization")
    assert by_fit[2:4] == [["fusion", "localization"], ["score_threshold", 0.123456789]]


def test_a_model_that_refines_and_ranks_by_one_score(page: Page) -> None:
    one = model(
        refinement={"steps": 5, "default_steps": 2}, fusion={"name": "localization", "alpha": 3.0, "sigma": 1.0}
    )
    settings = call(page, "controls", "settingsOf", one)
    assert (settings["fusion"], settings["alpha"], settings["refine"]) == ("geometric", 0.5, 2)
    assert call(page, "requests", "parametersOf", one, settings, "combined")[-1] == ["refine", 2]


POINT = {
    "name": "precision90",
    "description": "",
    "fusion": {"name": "gaussian", "alpha": 0.5, "sigma": 0.25},
    "score_threshold": 0.75,
}


def test_an_operating_point_is_asked_for_by_its_name_until_a_control_moves(page: Page) -> None:
    pointed = model(operating_points=[POINT])
    own = call(page, "controls", "settingsOf", pointed)
    at_point = call(page, "controls", "settingsAt", pointed, "precision90", {**own, "iou_threshold": 0.7})
    assert (at_point["fusion"], at_point["sigma"], at_point["score_threshold"]) == ("gaussian", 0.25, 0.75)
    asked = call(page, "requests", "parametersOf", pointed, at_point, "combined")
    assert asked[2:] == [["operating_point", "precision90"], ["iou_threshold", 0.7]]
    by_class = call(page, "requests", "parametersOf", pointed, at_point, "classification")
    assert by_class[2:4] == [["fusion", "classification"], ["score_threshold", 0.75]]
    moved = call(page, "requests", "parametersOf", pointed, {**at_point, "operating_point": ""}, "combined")
    assert moved[2:5] == [["fusion", "gaussian"], ["sigma", 0.25], ["score_threshold", 0.75]]
    back = call(page, "controls", "settingsAt", pointed, "", at_point)
    assert back == {**own, "iou_threshold": 0.7}
