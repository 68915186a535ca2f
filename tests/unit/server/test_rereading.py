"""Files that are read again when they change."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from calibox_core.errors import CaliboxError
from calibox_server.rereading import LOOK_S, Reread


class Watched:
    """A file with a number, and a clock that the test moves."""

    def __init__(self, path: Path) -> None:
        self.path, self.time, self.reads = path, 0.0, 0
        self.write("1")
        self.reread = Reread("numbers", [path], self._read, now=lambda: self.time)

    def write(self, text: str) -> None:
        before = self.path.stat().st_mtime_ns if self.path.exists() else 0
        self.path.write_text(text)
        os.utime(self.path, ns=(before + 10**9, before + 10**9))  # however coarse the file system's clock is

    def _read(self) -> int:
        self.reads += 1
        try:
            return int(self.path.read_text())
        except (OSError, ValueError) as error:
            raise CaliboxError(f"no number: {error}") from error

    def later(self) -> int:
        self.time += LOOK_S
        return self.reread.current()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "number")


def test_a_change_is_read_once_and_at_the_next_look(watched: Watched) -> None:
    watched.write("2")
    assert watched.reread.current() == 1  # too early to look
    with capture_logs() as lines:
        assert watched.later() == 2
    assert [line["event"] for line in lines] == ["files_taken"]
    assert (watched.later(), watched.reads) == (2, 2)


def test_what_cannot_be_used_keeps_the_old_and_says_so_once(watched: Watched) -> None:
    watched.write("two")
    with capture_logs() as lines:
        assert [watched.later() for _ in range(3)] == [1, 1, 1]
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("files_not_taken", "warning")
    assert "no number" in line["reason"]
    watched.write("3")
    assert watched.later() == 3


def test_a_file_that_is_gone_for_a_while_keeps_the_old(watched: Watched) -> None:
    watched.path.unlink()
    assert watched.later() == 1
    watched.write("4")
    assert watched.later() == 4


def test_what_is_wrong_at_first_is_its_callers_to_know(tmp_path: Path) -> None:
    def fail() -> int:
        raise CaliboxError("no number")

    with pytest.raises(CaliboxError, match="no number"):
        Reread("numbers", [tmp_path / "none"], fail)
