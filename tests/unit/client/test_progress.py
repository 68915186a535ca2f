"""When a progress bar is shown."""

import sys

import pytest

from calibox_client.progress import progress_bar, wants_progress


@pytest.mark.parametrize(
    ("out", "err", "prints", "expected"),
    [
        (False, True, True, True),  # lines go into a file or a pipe
        (True, True, True, False),  # lines on the same terminal are progress enough
        (True, True, False, True),
        (True, False, False, False),
        (False, False, True, False),
    ],
)
def test_a_bar_is_for_people_who_see_no_lines(
    monkeypatch: pytest.MonkeyPatch, out: bool, err: bool, prints: bool, expected: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err)
    assert wants_progress(prints=prints) is expected


def test_without_a_terminal_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("images", 2) as advance:
        advance()
        advance()
    assert capsys.readouterr() == ("", "")
