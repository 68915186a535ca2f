"""`--ray` of the commands without Ray: a played function finds, is interrupted, and goes on."""

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from calibox_client import offline
from calibox_client.commands import offline_asking
from calibox_client.commands.failures import CommandError
from calibox_client.commands.lines_file import LinesFile
from calibox_client.commands.offline_asking import OfflineAsked, detect_offline
from calibox_client.commands.offline_command import detect_on_ray, offline_of
from calibox_client.errors import ApiError, MissingPackageError
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer, Journal
from calibox_client.evaluation.offline import collect_offline, served_by
from calibox_client.evaluation.work import WorkItem
from calibox_client.offline import Offline
from calibox_core.errors import BundleError
from tests.support.bundles import make_tiny_bundle
from tests.support.pictures import picture

IMAGES = 5
FOUND = {"width": 80, "height": 60, "detections": []}
ANSWER = json.dumps({"model": "tiny", "version": "1", "results": [FOUND], "timing": {"total": 2.5}}).encode()
DAMAGED = json.dumps({"status": 422, "code": "truncated_image", "detail": "the image ends too early"}).encode()
REFUSED = json.dumps({"status": 422, "code": "invalid_parameter", "detail": "no such fusion"}).encode()


class Played:
    """Answers files, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.damaged: set[str] = set()
        self.stop_after = 10**9
        self.answer = (200, ANSWER)

    def __call__(self, paths: Sequence[Path], **share: Any) -> Generator[tuple[int, bytes]]:
        self.asked.append([path.name for path in paths])
        self.share = share
        for place, path in enumerate(paths):
            if place == self.stop_after:
                raise KeyboardInterrupt
            yield (422, DAMAGED) if path.name in self.damaged else self.answer


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    monkeypatch.setattr(offline, "find", lambda _: played)
    return played


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(IMAGES):
        picture(seed=i).save(tmp_path / f"pictures/{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def asked(folder: Path, tmp_path: Path) -> OfflineAsked:
    bundle = make_tiny_bundle(tmp_path / "models")
    return OfflineAsked([str(folder)], tmp_path / "out/found.jsonl", Offline(bundle, 3), {"fusion": "product"})


def lines(asked: OfflineAsked) -> list[dict[str, Any]]:
    return [json.loads(line) for line in asked.output.read_text().splitlines()]


def test_every_image_has_a_line_in_its_place(played: Played, asked: OfflineAsked, capsys: Any) -> None:
    played.damaged = {"2.png"}
    assert detect_offline(asked) == 1
    found = lines(asked)
    assert [Path(line["image"]).name for line in found] == [f"{i}.png" for i in range(IMAGES)]
    why = "the image ends too early (HTTP 422, truncated_image)"
    assert found[2] == {"image": found[2]["image"], "error": why, "code": "truncated_image"}
    assert found[3] == {"image": found[3]["image"], "model": "tiny", "version": "1", **FOUND}
    told = capsys.readouterr()
    assert "2.png: the image ends too early" in told.err
    assert "1 of 5 failed" in told.err
    assert f"5 images, their detections in {asked.output}" in told.out
    assert played.share == {
        "bundle": asked.offline.bundle, "parameters": {"fusion": "product"}, "actors": 3, "cores": 1, "gpus": 0.0,
    }  # fmt: skip
    assert [path.name for path in asked.output.parent.iterdir()] == ["found.jsonl"]


def test_an_interrupted_command_goes_on_where_it_stopped(played: Played, asked: OfflineAsked, capsys: Any) -> None:
    played.damaged, played.stop_after = {"1.png"}, 3
    with pytest.raises(typer.Exit) as ended:
        detect_offline(asked)
    assert ended.value.exit_code == 130
    assert "goes on where this one stopped" in capsys.readouterr().err
    assert not asked.output.exists()
    part = asked.output.with_name("found.jsonl.part")
    with part.open("ab") as stream:
        stream.write(b'{"image": "3.png", "mod')  # cut short
    played.stop_after = 10**9
    assert detect_offline(asked) == 1  # the one before the interruption
    assert played.asked == [[f"{i}.png" for i in range(IMAGES)], ["3.png", "4.png"]]
    assert [Path(line["image"]).name for line in lines(asked)] == [f"{i}.png" for i in range(IMAGES)]
    assert not part.exists()


def test_lines_of_something_else_are_not_gone_on_with(played: Played, asked: OfflineAsked) -> None:
    played.stop_after = 2
    with pytest.raises(typer.Exit):
        detect_offline(asked)
    other = OfflineAsked(asked.images, asked.output, asked.offline, {"fusion": "geometric"})
    with pytest.raises(CommandError, match=r"interrupted run with other parameters; remove it to begin anew"):
        detect_offline(other)


def test_a_refusal_of_every_image_ends_the_command(played: Played, asked: OfflineAsked) -> None:
    played.answer = (422, REFUSED)
    with pytest.raises(CommandError, match="no such fusion"):
        detect_offline(asked)
    assert not asked.output.exists()


def test_nothing_but_image_files_goes_to_actors(played: Played, asked: OfflineAsked, folder: Path) -> None:
    (folder / "cells.mp4").touch()
    for other in (str(folder / "cells.mp4"), "-", "rtsp://camera/1"):
        with pytest.raises(CommandError, match="takes image files"):
            detect_offline(OfflineAsked([other], asked.output, asked.offline, {}))
    assert played.asked == []


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_text("{}\n")
    (tmp_path / "a.part.json").write_text("{")
    with pytest.raises(CommandError, match="is damaged; remove both"):
        LinesFile(tmp_path / "a", {})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"refused": {"--camera": True}}, "--camera asks a server"),
        ({"bundle": None}, "--bundle models/NAME/VERSION"),
        ({"output": None}, "--output FILE"),
    ],
)
def test_what_is_missing_or_too_much_is_one_sentence(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    words = {"bundle": tmp_path, "output": tmp_path / "x", "share": (None, 1, 0.0), "parameters": {}, "refused": {}}
    with pytest.raises(CommandError, match=sentence):
        detect_on_ray(images=["x.jpg"], **{**words, **given})


def test_the_share_of_the_cluster_is_handed_on(tmp_path: Path) -> None:
    assert offline_of("eval", tmp_path, (4, 2, 0.5), {}) == Offline(tmp_path, 4, 2, 0.5)


def test_a_room_that_is_not_installed_is_named() -> None:
    with pytest.raises(MissingPackageError, match=r"pip install 'calibox\[dask\]'"):
        offline.find("dask")
    assert offline.find("ray").__name__ == "detect_files"


def work(folder: Path) -> list[WorkItem]:
    return [WorkItem(10 + i, folder / f"{i}.png") for i in range(IMAGES)]


def test_an_evaluation_keeps_the_answers_and_goes_on(played: Played, folder: Path, tmp_path: Path) -> None:
    where = Offline(tmp_path)
    played.damaged = {"3.png"}
    with Journal(tmp_path / "journal", {}, Answer.of_line) as journal:
        with pytest.raises(
            EvaluationError, match=r"image 13 .*3.png.: the image ends too early .*\. 3 of 5 answers are"
        ):
            collect_offline(where, work(folder), journal, {})
        played.damaged = set()
        tally = collect_offline(where, work(folder), journal, {})
        assert (tally.asked, tally.retries) == (2, 0)
        assert played.asked[1] == ["3.png", "4.png"]
        assert [journal.answers[item.image_id].latency_ms for item in work(folder)] == [2.5] * IMAGES


def test_a_bundle_says_what_its_server_would(tmp_path: Path) -> None:
    served = served_by(make_tiny_bundle(tmp_path))
    assert (served.name, served.version, served.max_detections) == ("tiny", "1", 50)
    assert served.labels == {1: "class-0", 2: "class-1", 3: "class-2"}
    assert served.manifest().files == served.files
    with pytest.raises(BundleError, match="is not a bundle"):
        served_by(tmp_path)


def test_an_answer_that_is_no_answer_is_an_error() -> None:
    assert isinstance(offline.read(422, DAMAGED), ApiError)
    assert offline_asking.about_the_whole_call(offline.read(422, REFUSED))  # type: ignore[arg-type]
