"""Which versions of a model are served. Pure."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from calibox_core.errors import CaliboxError


class VersionPolicyError(CaliboxError):
    """A policy that cannot be read; the text says what can."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Of the versions that lie in a folder, those that are served."""

    most: int | None = None  # so many at a time, the highest first; all when None
    only: frozenset[str] | None = None  # these alone; any when None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``all``, ``latest``, ``latest:N`` or version numbers separated by commas.

        Raises:
            VersionPolicyError: something else.
        """
        text = text.strip()
        if text == "all":
            return cls()
        if found := re.fullmatch(r"latest(?::([1-9][0-9]{0,5}))?", text):
            return cls(most=int(found[1] or 1))
        if re.fullmatch(r"[0-9]+(\s*,\s*[0-9]+)*", text):
            return cls(only=frozenset(part.strip() for part in text.split(",")))
        raise VersionPolicyError(
            f"the versions to serve are {text!r:.60}; say all, latest, latest:N, or version numbers such as 3,5"
        )

    def candidates(self, versions: Collection[str]) -> list[str]:
        """The versions that may be served, the highest first.

        At most ``most`` of them are: whoever loads goes on to the next one where one fails, so that a broken newest
        version does not leave the model unserved.
        """
        allowed = versions if self.only is None else self.only.intersection(versions)
        return sorted(allowed, key=number, reverse=True)


def number(version: str) -> int:
    """A version as a number; -1 for the folder of a broken bundle that is not called like one."""
    return int(version) if version.isdecimal() else -1
