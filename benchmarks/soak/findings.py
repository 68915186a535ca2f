"""What a step found: facts, tables, and what had to hold, judged; and the page that keeps it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.outcome import Table, write_whole
from benchmarks.gpu.report import markdown


@dataclass
class Findings:
    """Of one step."""

    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    held: list[tuple[str, str, str, bool]] = field(default_factory=list)  # what, found, wanted, whether

    def must(self, what: str, ok: bool, *, found: Any, wanted: Any) -> None:
        """Something that had to hold."""
        self.held.append((what, str(found), str(wanted), ok))

    def table(self, title: str, *columns: str) -> list[list[Any]]:
        """Begins a table and returns its rows, to be filled."""
        self.tables.append(Table(title, list(columns)))
        return self.tables[-1].rows

    @property
    def failed(self) -> list[str]:
        """What did not hold."""
        return [f"{what}: {found}, wanted {wanted}" for what, found, wanted, ok in self.held if not ok]

    def text(self) -> str:
        """As Markdown."""
        judged = [[what, found, wanted, "yes" if ok else "**no**"] for what, found, wanted, ok in self.held]
        tables = [*self.tables, Table("What had to hold", ["", "found", "wanted", "held"], judged)]
        return "\n\n".join([*self.sentences, *(f"### {table.title}\n\n{markdown(table)}" for table in tables)])


def put_section(page: Path, introduction: str, name: str, text: str) -> None:
    """Writes the section ``name`` into a page, in place of one of that name; the page begins with ``introduction``."""
    whole = page.read_text() if page.exists() else ""
    sections = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=^## |\Z)", whole, re.MULTILINE | re.DOTALL))
    sections[name] = text
    parts = [introduction.strip(), *(f"## {title}\n\n{body.strip()}" for title, body in sections.items())]
    write_whole(page, "\n\n".join(parts) + "\n")
