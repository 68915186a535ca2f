"""Keys that callers show: made, kept as hashes, looked up without telling by the time it takes.

A key holds 256 random bits, so that its SHA-256 cannot be turned back by guessing and a slow hash would protect
nothing; it would only cost each request 50 ms or more.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from calibox_core.errors import CaliboxError

KEY_BYTES = 32  # 256 bits
PREFIX = "calibox_"  # lets scanners for leaked secrets find keys
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


class KeysError(CaliboxError):
    """A name or a line of the keys is not accepted; the text says where it stands, and never what it holds."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of callers and the SHA-256 of their keys."""

    hashes: dict[str, bytes]

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def owner(self, key: str) -> str | None:
        """The name of the caller whose key it is. Compares with every hash, so that the time tells nothing."""
        shown, found = _hash(key), None
        for name, known in self.hashes.items():
            if hmac.compare_digest(shown, known):
                found = name
        return found


def make_key(name: str) -> tuple[str, str]:
    """A new key, and the line that lets it in.

    Raises:
        KeysError: the name has other characters than letters, digits, dot, hyphen and underscore.
    """
    if not _NAME.fullmatch(name):
        raise KeysError(f"a key's name has 1 to 64 letters, digits, dots, hyphens and underscores; got {name[:80]!r}")
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return key, f"{name}:{_hash(key).hex()}"


def read_keys(file: Path | None, lines: Iterable[str]) -> Keys:
    """The keys of a file (a line each; empty lines and those that start with # are left out) and of further lines.

    Raises:
        KeysError: the file cannot be read; a line is not `name:hash`; a name comes twice.
    """
    hashes: dict[str, bytes] = {}
    for where, line in [*_file_lines(file), *((f"api_keys, entry {i}", line) for i, line in enumerate(lines, 1))]:
        name, _, digest = line.partition(":")
        if not (_NAME.fullmatch(name) and _HASH.fullmatch(digest)):
            raise KeysError(f"{where}: not name:hash with the SHA-256 of a key; make both with calibox api-key NAME")
        if name in hashes:
            raise KeysError(f"{where}: the name {name} comes twice; give each key a name of its own")
        hashes[name] = bytes.fromhex(digest)
    if file is not None and not hashes:
        raise KeysError(f"{file} has no key, so that nobody could ask; make one with calibox api-key NAME")
    return Keys(hashes)


def _file_lines(file: Path | None) -> Iterator[tuple[str, str]]:
    if file is None:
        return
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"the file of keys {file} cannot be read ({error}); see --api-keys-file") from error
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and not line.startswith("#"):
            yield f"{file}, line {number}", line


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
