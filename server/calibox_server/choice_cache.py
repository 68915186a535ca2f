"""What `auto` measured before: a JSON file in the user's cache folder, keyed by what the rates depend on."""

import hashlib
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibox_core.engines import cache_folder
from calibox_server.options import available_cores


@dataclass(frozen=True, slots=True)
class ChoiceCache:
    """Rates of engines on this machine. A file that cannot be read or written is no error: it only saves a second."""

    path: Path

    def read(self, key: Sequence[Any], names: Sequence[str]) -> Mapping[str, float] | None:
        """Images per second by engine; None unless all of ``names``, and no others, were measured under ``key``."""
        found = self._all().get(_digest(key, names))
        whole = isinstance(found, dict) and all(isinstance(found.get(name), float) for name in names)
        return {name: found[name] for name in names} if whole and found is not None else None

    def write(self, key: Sequence[Any], rates: Mapping[str, float]) -> None:
        """Adds what was measured."""
        text = json.dumps({**self._all(), _digest(key, list(rates)): dict(rates)}, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as scratch:
                scratch.write(text)
            Path(scratch.name).replace(self.path)
        except OSError:
            return

    def _all(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def default_cache() -> ChoiceCache:
    """In the user's cache folder."""
    return ChoiceCache(cache_folder() / "engines.json")


def _digest(key: Sequence[Any], names: Sequence[str]) -> str:
    """Of the key, the engines' names (which hold versions and precision) and the machine."""
    machine = (platform.node(), platform.machine(), available_cores())
    return hashlib.sha256(repr((tuple(key), tuple(names), machine)).encode()).hexdigest()
