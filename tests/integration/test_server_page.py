"""The page's files as a server gives them: cached, small, from nowhere else; the examples; and switched off."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from calibox_core.bundle import read_manifest, write_manifest
from calibox_server.page.assets import read_assets
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

MOST_BYTES = 64 * 1024  # of all files together: what a slow connection of 1 Mbit/s brings in half a second
EXAMPLE = encoded(picture(), "JPEG")


def make_bundle_with_example(root: Path) -> None:
    folder = make_tiny_bundle(root)
    (folder / "cells.jpg").write_bytes(EXAMPLE)
    write_manifest(folder, read_manifest(folder).model_copy(update={"example": "cells.jpg"}))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    root = tmp_path_factory.mktemp("models")
    make_bundle_with_example(root)
    make_tiny_bundle(root, name="plain")
    with live_server(root) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def referenced(text: str) -> set[str]:
    """Files of the page that one of its files names."""
    in_markup = re.findall(r'(?:href|src)="(page/[^"]+)"', text)
    in_modules = [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
    return {*in_markup, *in_modules}


def test_every_file_that_the_page_names_is_there_and_no_other(client: httpx2.Client) -> None:
    waiting, found = {""}, set()
    while waiting:
        name = waiting.pop()
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        found.add(name)
        waiting |= referenced(answer.text) - found
    assert found == {"", *(f"page/{name}" for name in read_assets() if name != "index.html")}


def test_the_page_is_small_and_names_no_other_host() -> None:
    assets = read_assets()
    assert sum(len(asset.body) for asset in assets.values()) <= MOST_BYTES
    for name, asset in assets.items():
        hosts = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]+", asset.body.decode()))
        assert hosts <= {"http://www.w3.org"}, name  # the name of SVG's namespace


def test_no_script_or_style_stands_in_the_markup_and_nothing_else_may_run(client: httpx2.Client) -> None:
    answer = client.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.findall(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=", answer.text) == []
    for name in read_assets():
        assert (
            client.get(f"/page/{name}").headers["content-security-policy"] == answer.headers["content-security-policy"]
        )


def test_a_browser_that_has_a_file_gets_its_name_only(client: httpx2.Client) -> None:
    for path in ("/", "/page/main.js", "/page/style.css"):
        first = client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
            again = client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content
        head = client.head(path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])


@pytest.mark.parametrize("name", ["no.js", "..%2fassets.py", "%2e%2e/assets.py", "static/main.js", ""])
def test_what_is_no_file_of_the_page_is_not_found(client: httpx2.Client, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


def test_a_models_example_is_given_as_it_is(client: httpx2.Client) -> None:
    answer = client.get("/v1/models/tiny/example")
    assert answer.content == EXAMPLE
    assert answer.headers["content-type"] == "image/jpeg"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert client.get("/v1/models/tiny/example", params={"version": "1"}).content == EXAMPLE
    by_name = {model["name"]: model["example"] for model in client.get("/v1/models").json()["models"]}
    assert by_name == {"tiny": "cells.jpg", "plain": None}


@pytest.mark.parametrize(
    ("path", "code", "sentence"),
    [
        ("plain/example", "not_found", "the bundle plain/1 brings no example picture"),
        ("tiny/example?version=7", "unknown_model", "model tiny has no version '7'"),
        ("lost/example", "unknown_model", "there is no model 'lost'"),
    ],
)
def test_an_example_that_is_not_there_is_said(client: httpx2.Client, path: str, code: str, sentence: str) -> None:
    answer = client.get(f"/v1/models/{path}")
    assert answer.status_code == 404
    assert answer.json()["code"] == code
    assert sentence in answer.json()["detail"]


def test_without_the_page_there_is_only_the_api(tmp_path: Path) -> None:
    make_bundle_with_example(tmp_path)
    with live_server(tmp_path, page=False) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        for path in ("/", "/page/main.js", "/v1/models/tiny/example"):
            assert client.get(path).status_code == 404
        assert client.post("/v1/detect", content=EXAMPLE).status_code == 200
