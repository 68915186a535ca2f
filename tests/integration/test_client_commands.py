"""`calibox detect` against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibox_client import Client, RetryPolicy
from calibox_server.keys import make_key
from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.live_server import live_server

PIXELS = np.random.default_rng(6).integers(0, 256, (96, 128, 3), np.uint8)
LOW = ("--score-threshold", "0.1")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root)
    with live_server(root) as address:
        yield address


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(PIXELS).save(folder / "a.png")
    Image.fromarray(PIXELS[::-1]).save(folder / "b.jpg", quality=95)
    return folder


def test_boxes_are_drawn_into_copies(calibox: CommandLine, url: str, pictures: Path, tmp_path: Path) -> None:
    originals = [path.read_bytes() for path in sorted(pictures.iterdir())]
    done = calibox("detect", pictures, "--server", url, "--save", tmp_path / "drawn", *LOW)
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "b.jpg"]
    assert [path.read_bytes() for path in sorted(pictures.iterdir())] == originals
    with Client(url) as client:
        expected = client.detect(pictures / "a.png", score_threshold=0.1)
    with Image.open(tmp_path / "drawn" / "a.png") as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(expected.draw(PIXELS)))
        assert not np.array_equal(np.asarray(drawn), PIXELS)
    assert f"{pictures / 'a.png'}: {len(expected)} detections, drawn in" in done.out


def test_a_key_is_read_from_the_environment(
    calibox: CommandLine, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, line = make_key("ci.bot")
    make_tiny_bundle(pictures / "models")
    with live_server(pictures / "models", api_keys=line) as url:
        refused = calibox("detect", pictures / "a.png", "--server", url, *LOW)
        monkeypatch.setenv("CALIBOX_API_KEY", key)
        answered = calibox("detect", pictures / "a.png", "--server", url, *LOW)
    assert (refused.code, answered.code) == (1, 0)
    assert "this server asks for a key" in refused.err
    assert key not in answered.out + answered.err


def test_json_is_one_line_per_image_and_nothing_else(calibox: CommandLine, url: str, pictures: Path) -> None:
    done = calibox("detect", f"{pictures}/*.*", "--server", url, "--json", *LOW)
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.png", "b.jpg"]
    with Client(url) as client:
        expected = client.detect(pictures / "a.png", score_threshold=0.1)
    assert lines[0] == {"image": str(pictures / "a.png"), **expected.as_json()}


def test_a_table_is_printed_for_people(calibox: CommandLine, url: str, pictures: Path) -> None:
    done = calibox("detect", pictures / "a.png", "--server", url, *LOW)
    assert done.code == 0
    for text in ("a.png", "tiny/1", "classification", "localization", "class-"):
        assert text in done.out
    nothing = calibox("detect", pictures / "a.png", "--server", url, "--score-threshold", "1")
    assert "nothing found" in nothing.out


def test_parameters_are_passed_on(calibox: CommandLine, url: str, pictures: Path) -> None:
    chosen = ("--fusion", "power", "--alpha", "0.3", "--iou-threshold", "0.2", "--max-detections", "4")
    kinds = ("--classes", "class-0", "--classes", "2", "--model", "tiny", "--version", "1", "--timeout-ms", "60000")
    picture = pictures / "a.png"
    done = calibox("detect", picture, "--server", url, "--json", "--score-threshold", "0", *chosen, *kinds)
    with Client(url) as client:
        expected = client.detect(
            picture,
            fusion="power",
            alpha=0.3,
            iou_threshold=0.2,
            max_detections=4,
            classes=["class-0", 2],
            score_threshold=0,
        )
    assert json.loads(done.out)["detections"] == [one.as_json() for one in expected]


def test_one_bad_file_does_not_stop_the_others(calibox: CommandLine, url: str, pictures: Path, tmp_path: Path) -> None:
    (pictures / "aa.png").write_bytes(b"no image")
    done = calibox("detect", pictures, pictures / "absent.png", "--server", url, "--json", "--save", tmp_path / "out")
    assert done.code == 1
    assert [Path(json.loads(line)["image"]).name for line in done.out.splitlines()] == ["a.png", "b.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg"]
    assert "aa.png: " in done.err
    assert "unsupported_media_type" in done.err
    assert "absent.png names no image" in done.err
    assert "2 of 4 failed" in done.err


def test_a_wrong_parameter_ends_the_command_at_the_first_image(calibox: CommandLine, url: str, pictures: Path) -> None:
    done = calibox("detect", pictures, "--server", url, "--score-threshold", "7")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("score_threshold must be a number within 0..1") == 1


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_a_sentence(calibox: CommandLine, pictures: Path, address: str) -> None:
    done = calibox("detect", pictures, "--server", address)
    assert done.code == 1
    assert "is no server address" in done.err


def test_originals_are_never_overwritten(calibox: CommandLine, url: str, pictures: Path) -> None:
    done = calibox("detect", pictures, "--server", url, "--save", pictures)
    assert done.code == 1
    assert "would overwrite" in done.err


def test_a_server_that_is_not_there_ends_the_command(
    calibox: CommandLine, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "pause", lambda *_: 0.0)
    done = calibox("detect", pictures, "--server", "http://127.0.0.1:1")
    assert (done.code, done.out) == (4, "")
    assert done.err.count("http://127.0.0.1:1 cannot be reached") == 1
