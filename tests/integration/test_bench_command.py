"""`calibox bench` and `calibox models served` against a real server, and shell completion."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibox_client import RetryPolicy
from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

SHORT = ("--seconds", "0.5", "--warm-up", "0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one that is damaged, and two pictures."""
    root = tmp_path_factory.mktemp("bench")
    make_tiny_bundle(root / "models")
    damaged = make_tiny_bundle(root / "models", name="damaged")
    (damaged / "model.onnx").write_bytes(b"")
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG")):
        (root / name).write_bytes(encoded(picture(), kind))
    return root


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with live_server(folder / "models") as address:
        yield address


def test_closed_loops_are_measured_one_after_the_other(calibox: CommandLine, url: str, folder: Path) -> None:
    done = calibox("bench", folder, "--server", url, "--concurrency", "1,4", "--model", "tiny", "--json", *SHORT)
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["mode"], row["concurrency"], row["images"]) for row in rows] == [("closed", 1, 2), ("closed", 4, 2)]
    for row in rows:
        assert (row["model"], row["version"], row["errors"]) == ("tiny", "1", {})
        assert row["answered"] == row["requests"] > 0
        assert row["answered_per_s"] == pytest.approx(row["answered"] / 0.5, abs=2 * row["concurrency"] / 0.5)
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert 0 < row["stages_ms"]["total"]["p50"] < latency["max"]
        assert {"decode", "queue", "total"} <= set(row["stages_ms"])


def test_open_loops_ask_by_the_clock(calibox: CommandLine, url: str, folder: Path) -> None:
    done = calibox("bench", folder / "a.jpg", "--server", url, "--rate", "40", "--seed", "3", "--json", *SHORT)
    (row,) = [json.loads(line) for line in done.out.splitlines()]
    again = calibox("bench", folder / "a.jpg", "--server", url, "--rate", "40", "--seed", "3", "--json", *SHORT)
    assert (row["mode"], row["rate"], row["errors"]) == ("open", 40, {})
    assert row["requests"] == json.loads(again.out)["requests"] > 5  # the same moments
    assert row["late_ms"]["p50"] >= 0


def test_people_get_tables(calibox: CommandLine, url: str, folder: Path) -> None:
    done = calibox("bench", folder / "a.jpg", "--server", url, "--concurrency", "2", *SHORT)
    assert done.code == 0
    for text in ("2 at once", "answers/s", "p99", "stages", "decode", "none"):
        assert text in done.out


def test_refused_requests_are_counted_and_fail_the_command(calibox: CommandLine, url: str, folder: Path) -> None:
    first, second = folder / "a.jpg", folder / "torn.jpg"
    second.write_bytes(first.read_bytes()[:-300])
    done = calibox("bench", first, second, "--server", url, "--concurrency", "1", "--json", *SHORT)
    second.unlink()
    row = json.loads(done.out)
    assert done.code == 1
    assert row["errors"] == {"truncated_image": row["requests"] - row["answered"]}
    assert row["answered"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--model", "unicorn"), 1, "unicorn"),
        (("--concurrency", "0"), 2, "whole numbers above 0"),
        (("--concurrency", "1.5"), 2, "whole numbers above 0"),
        (("--rate", "fast"), 2, "numbers above 0"),
        (("absent.png",), 1, "names no image"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    calibox: CommandLine, url: str, folder: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    images = () if arguments == ("absent.png",) else (folder / "a.jpg",)
    done = calibox("bench", *images, *arguments, "--server", url, *SHORT)
    assert done.code == code
    assert sentence in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize("command", [("bench", "a.jpg"), ("models", "served")])
def test_a_server_that_is_not_there_is_exit_status_4(
    calibox: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(RetryPolicy, "pause", lambda *_: 0.0)
    monkeypatch.chdir(folder)
    done = calibox(*command, "--server", "http://127.0.0.1:1")
    assert (done.code, done.out) == (4, "")
    assert "cannot be reached" in done.err


def test_the_models_of_a_server_are_shown_with_those_it_could_not_load(calibox: CommandLine, url: str) -> None:
    done = calibox("models", "served", "--server", url)
    assert done.code == 0
    for text in ("tiny", "ready", "class-0, class-1", "damaged", "yes"):
        assert text in done.out
    listed = json.loads(calibox("models", "served", "--server", url, "--json").out)
    assert [(one["name"], one["state"]) for one in listed] == [("tiny", "ready"), ("damaged", "broken")]


def test_shells_complete_commands_options_and_values(calibox: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CALIBOX_COMPLETE", "complete_bash")

    def complete(words: str) -> set[str]:
        """What bash would offer after these words."""
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        return set(calibox().out.split())

    assert {"detect", "bench", "eval", "models"} <= complete("calibox ")
    assert complete("calibox det") == {"detect"}
    assert complete("calibox models ser") == {"served"}
    assert {"--score-threshold", "--save"} <= complete("calibox detect --s")
    assert complete("calibox detect --fusion ga") == {"gaussian"}
