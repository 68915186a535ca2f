"""Keys of callers: made, read, looked up; nothing ever shows one."""

import hashlib
from pathlib import Path

import pytest

from calibox_server.keys import Keys, KeysError, make_key, read_keys


def test_a_made_key_is_found_by_its_line_and_no_other_is() -> None:
    (key, line), (other, _) = make_key("ci.bot"), make_key("ci.bot")
    keys = read_keys(None, [line])
    assert keys.owner(key) == "ci.bot"
    assert keys.owner(other) is None
    assert keys.owner("") is None
    assert key not in line


def test_a_line_holds_the_sha256_of_its_key() -> None:
    digest = hashlib.sha256(b"calibox_abc").hexdigest()
    assert read_keys(None, [f"someone:{digest}"]).owner("calibox_abc") == "someone"


def test_keys_have_256_bits() -> None:
    key, _ = make_key("a")
    assert len(key) == len("calibox_") + 43  # base64 of 32 bytes


def test_every_hash_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make_key(name) for name in ("first", "second", "third")]
    keys, compared = read_keys(None, [line for _, line in made]), []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert [keys.owner(key) for key, _ in made] == ["first", "second", "third"]
    assert len(compared) == 9


def test_a_file_may_have_comments_and_is_joined_with_further_lines(tmp_path: Path) -> None:
    (a, line_a), (b, line_b) = make_key("a"), make_key("b")
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\n\n  {line_a}  \n")
    keys = read_keys(file, [line_b])
    assert (keys.owner(a), keys.owner(b)) == ("a", "b")


@pytest.mark.parametrize("line", ["calibox_plainkey", "a:abc", "a b:" + "0" * 64, ":" + "0" * 64, "a:" + "G" * 64])
def test_a_line_that_is_none_is_named_by_its_place_and_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# first\n{line}\n")
    with pytest.raises(KeysError, match=r"keys, line 2: not name:hash .* calibox api-key NAME$") as caught:
        read_keys(file, [])
    assert line not in str(caught.value)
    with pytest.raises(KeysError, match=r"^api_keys, entry 1: "):
        read_keys(None, [line])


def test_a_name_that_comes_twice_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    line = make_key("a")[1]
    with pytest.raises(KeysError, match=r"entry 2: the name a comes twice"):
        read_keys(None, [line, line])
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    with pytest.raises(KeysError, match="has no key, so that nobody could ask"):
        read_keys(file, [])
    with pytest.raises(KeysError, match=r"cannot be read .* see --api-keys-file"):
        read_keys(tmp_path / "missing", [])


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65, "a\nb"])
def test_a_name_that_would_break_a_line_is_refused(name: str) -> None:
    with pytest.raises(KeysError, match="a key's name has"):
        make_key(name)


def test_no_keys_are_false() -> None:
    assert not Keys({})
    assert not read_keys(None, [])
