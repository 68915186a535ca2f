"""What a step found, as it goes from the step's process to the report."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


class NothingToDo(Exception):
    """Raised by a step that cannot run here, with the reason as a sentence."""


@dataclass
class Table:
    """Rows of words and numbers under a title."""

    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)


@dataclass
class Outcome:
    """Of one step."""

    status: Literal["passed", "failed", "skipped"] = "passed"
    why: str = ""  # of a failure, or of nothing to do
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)  # for programs: in the JSON alone
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def table(self, title: str, *columns: str) -> list[list[Any]]:
        """Begins a table and returns its rows, to be filled."""
        self.tables.append(Table(title, list(columns)))
        return self.tables[-1].rows

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Outcome":
        """As it lies in JSON."""
        return cls(**{**fields, "tables": [Table(**table) for table in fields["tables"]]})

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """From the file that `write_outcome` wrote."""
        return cls.from_fields(json.loads(path.read_text()))


def write_outcome(path: Path, outcome: Outcome) -> None:
    """As a whole or not at all."""
    write_whole(path, json.dumps(asdict(outcome), indent=1))


def write_whole(path: Path, text: str) -> None:
    """Under another name first, then renamed."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    beside.replace(path)
