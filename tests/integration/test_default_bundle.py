"""The bundle in models/: what it says of itself, what the README does with it, and its measured AP through HTTP."""

import itertools
import json
import re
import shlex
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from calibox_core.bundle import Bundle, find_bundles, read_bundle
from calibox_core.dataset import find_dataset
from calibox_training.data.coco import describe_dataset
from calibox_training.recipe import load_recipe, parse_recipe
from tests.support.command_line import CommandLine
from tests.support.data import dataset
from tests.support.live_server import live_server, serve_command

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
MOST_BYTES = 25_000_000
# The graph and the network in torch agree to 1e-4 in scores; on 72 images that moves AP by far less than this.
AP_TOLERANCE = 0.002
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The only bundle in models/."""
    (folder,) = find_bundles(MODELS)
    return read_bundle(folder)


def test_it_is_small_and_says_how_it_was_made(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert sum(path.stat().st_size for path in bundle.folder.rglob("*")) <= MOST_BYTES
    assert manifest.dataset.license == "MIT"
    assert "shenggan" in manifest.dataset.attribution
    assert re.fullmatch(r"[0-9a-f]{40}", manifest.provenance.commit)
    assert manifest.measured["val"]["AP"] is not None
    assert (bundle.folder / manifest.example).is_file()


def test_its_recipe_is_the_one_in_the_repository(bundle: Bundle) -> None:
    provenance = bundle.manifest.provenance
    stored = parse_recipe(provenance.recipe, source="the manifest")  # keys added since then take their defaults
    assert load_recipe(provenance.recipe_name) == stored


def test_its_data_are_those_that_are_at_hand(bundle: Bundle) -> None:
    folder = dataset("bccd")
    source = load_recipe("bccd").data
    assert describe_dataset(source, find_dataset(str(folder.root))) == bundle.manifest.dataset


def test_ap_through_the_live_server_is_that_of_the_manifest(
    bundle: Bundle, calibox: CommandLine, tmp_path: Path
) -> None:
    folder = dataset("bccd")
    with live_server(MODELS) as url:
        where = ("--images", folder.images, "--annotations", folder.annotations_path("val"))
        done = calibox("eval", "--server", url, *where, "--output", tmp_path / "results.json", "--json")
    assert done.code == 0, done.err
    found, stated = json.loads(done.out), bundle.manifest.measured["val"]
    for name in ("AP", "AP50", "AP75"):
        assert found[name] == pytest.approx(stated[name], abs=AP_TOLERANCE), name


def test_the_line_that_serve_prints_can_be_tried_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with serve_command("--models", "models", "--port", "0") as process:
        assert process.stdout is not None
        printed = "".join(itertools.islice(process.stdout, 3))
        line = re.search(r"curl -F file=@(\S+) (\S+)$", printed, re.MULTILINE)
        documentation = re.search(r"(\S+/docs)$", printed, re.MULTILINE)
        assert line is not None, printed
        assert documentation is not None, printed
        answer = httpx2.post(line[2], files={"file": Path(line[1]).read_bytes()})
        assert answer.json()["results"][0]["detections"]
        assert httpx2.get(documentation[1]).is_success


def test_the_readmes_commands_and_code_work(
    calibox: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text()
    (drawing,) = re.findall(r"^\$ \.venv/bin/(calibox detect .*)$", readme, re.MULTILINE)
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(ROOT)
    with live_server(MODELS) as url:
        words = shlex.split(drawing.replace(ADDRESS, url))[1:]
        done = calibox(*(tmp_path / "drawn" if word == "drawn" else word for word in words))
        capsys.readouterr()
        exec(compile(code.replace(ADDRESS, url), "README.md", "exec"), {})
    assert done.code == 0, done.err
    (drawn,) = (tmp_path / "drawn").iterdir()
    with Image.open(drawn) as after, Image.open(ROOT / words[1]) as before:
        assert after.size == before.size
        assert after.convert("RGB").tobytes() != before.convert("RGB").tobytes()
    assert len(capsys.readouterr().out.splitlines()) > 1


def test_the_readme_shows_pictures_that_exist() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(ROOT / picture) as image:
            image.verify()
