"""The files of docker/, read for tests."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@dataclass(frozen=True)
class Stage:
    """One FROM of the Dockerfile: its name, its base with arguments filled in, and its instructions in order."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def last(self, keyword: str) -> str | None:
        """The argument of the last instruction of a kind."""
        return next((text for word, text in reversed(self.instructions) if word == keyword), None)


def read_yaml(path: str) -> Any:
    """A file below docker/, anchors and merges resolved."""
    return yaml.safe_load((DOCKER / path).read_text())


def filled(text: str) -> str:
    """A text of compose.yaml with the default of every ``${NAME:-default}``."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def instructions() -> list[tuple[str, str]]:
    """Keyword and argument of every line of the Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def arguments() -> dict[str, str]:
    """The defaults of the ARG lines."""
    pairs = (text.partition("=") for word, text in instructions() if word == "ARG")
    return {name: value for name, found, value in pairs if found}


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name, each with the instructions of what it stands on before its own."""
    known, made = arguments(), dict[str, Stage]()
    for word, text in instructions():
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda hit: known[hit[1]], base)
            before = made[base].instructions if base in made else ()
            made[name] = Stage(name, base, before)
        elif made:
            made[name] = Stage(name, made[name].base, (*made[name].instructions, (word, text)))
    return made


def health_check(port: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs docker/health.py as the container engine does, in an environment where a proxy leads nowhere.

    Args:
        port: that the server of the container is said to listen on.
        variables: further ones of the container.
    """
    here = {name: value for name, value in os.environ.items() if not name.startswith("CALIBOX_")}
    environment = here | {"CALIBOX_PORT": str(port), "http_proxy": "http://127.0.0.1:9"} | variables
    command = [sys.executable, DOCKER / "health.py"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
