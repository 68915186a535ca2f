"""Which versions are served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_server.versions import VersionPolicy, VersionPolicyError

FOUND = ("2", "10", "9")


@pytest.mark.parametrize(
    ("text", "most", "candidates"),
    [
        ("all", None, ["10", "9", "2"]),
        ("latest", 1, ["10", "9", "2"]),  # as many as load, one at a time
        ("latest:2", 2, ["10", "9", "2"]),
        ("9,2,7", None, ["9", "2"]),
        (" 10 ", None, ["10"]),
    ],
)
def test_a_policy_is_read(text: str, most: int | None, candidates: list[str]) -> None:
    policy = VersionPolicy.parse(text)
    assert policy.most == most
    assert policy.candidates(FOUND) == candidates


@pytest.mark.parametrize("text", ["", "newest", "latest:0", "latest:", "1,", "1;2", "-1", "latest:1,2"])
def test_what_is_no_policy_is_answered_with_what_is(text: str) -> None:
    with pytest.raises(VersionPolicyError, match=r"say all, latest, latest:N, or version numbers such as 3,5$"):
        VersionPolicy.parse(text)


def test_a_folder_that_is_not_called_like_a_version_comes_last() -> None:
    assert VersionPolicy().candidates(["draft", "0", "3"]) == ["3", "0", "draft"]


@given(st.sets(st.integers(0, 10**6).map(str)))
def test_candidates_fall(versions: set[str]) -> None:
    numbers = [int(version) for version in VersionPolicy().candidates(versions)]
    assert numbers == sorted(map(int, versions), reverse=True)
