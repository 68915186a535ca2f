"""The journal of an evaluation: appended to, cut, damaged, of something else."""

from pathlib import Path

import pytest

from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer, Journal

FINGERPRINT = {"parameters": {"alpha": 0.1, "classes": ("a", "b")}, "files": None}
ANSWERS = [
    Answer(1, 12.5, [{"category_id": 1, "bbox": [0.1, 1 / 3, 2e-17, 4.0], "score": 0.30000000000000004}]),
    Answer(7, 1.0, []),
    Answer(2**40, 0.1, [{"category_id": 2, "bbox": [1, 2, 3, 4], "score": 1.0}] * 2),
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A journal with three answers."""
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path, FINGERPRINT, Answer.of_line) as journal:
        for answer in ANSWERS:
            journal.add(answer)
    return path


def test_answers_come_back_exactly(written: Path) -> None:
    with Journal(written, FINGERPRINT, Answer.of_line) as journal:
        assert list(journal.answers.values()) == ANSWERS


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(len(whole) + 1):
        written.write_bytes(whole[:length])
        kept = max(0, whole[:length].count(b"\n") - 1)
        with Journal(written, FINGERPRINT, Answer.of_line) as journal:
            assert list(journal.answers.values()) == ANSWERS[:kept]
            for answer in ANSWERS[kept:]:
                journal.add(answer)
        assert written.read_bytes() == whole


def test_an_answer_is_on_disk_before_the_next(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", FINGERPRINT, Answer.of_line) as journal:
        for n, answer in enumerate(ANSWERS, 2):
            journal.add(answer)
            assert journal.path.read_bytes().count(b"\n") == n


def test_another_fingerprint_is_told_key_by_key(written: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(EvaluationError, match=r"files is None there and 'x' now") as caught:
        Journal(written, {**FINGERPRINT, "files": "x"}, Answer.of_line)
    assert "parameters" not in str(caught.value)
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"[1]\n", b'"text"\n', b"{}\n", b"no json\n", b"\xff\n", b'{"fingerprint": {}}\n{"image_id": 1}\n']
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"j is no journal|parameters is None there"):
        Journal(path, FINGERPRINT if b"finger" not in content else {}, Answer.of_line)
    assert path.read_bytes() == content


def test_a_damaged_line_in_the_middle_is_refused(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join([*lines[:2], b"#" + lines[2], *lines[3:]]))
    with pytest.raises(EvaluationError, match="damaged; pass --restart"):
        Journal(written, FINGERPRINT, Answer.of_line)


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"journal .* cannot be used"):
        Journal(tmp_path / "file" / "journal", FINGERPRINT, Answer.of_line)


def test_a_removed_journal_is_gone(written: Path) -> None:
    with Journal(written, FINGERPRINT, Answer.of_line) as journal:
        journal.remove()
    assert not written.exists()
