"""results.json and results.md in a folder, whole after every step."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.outcome import Outcome, Table, write_whole

ON_THE_HOST = (
    "**Made with --host: the kernels' host build on the CPU, small sizes, CPU clocks. It proves the script; no figure "
    "here says anything about a GPU.**"
)


class Report:
    """The outcomes by step, those of earlier calls among them."""

    def __init__(self, folder: Path, *, host: bool) -> None:
        self._folder, self._host = folder, host
        self._outcomes: dict[str, Outcome] = {}
        kept = folder / "results.json"
        if kept.exists():
            found = json.loads(kept.read_text())
            if found["host"] == host:  # figures of the two are not mixed
                self._outcomes = {name: Outcome.from_fields(fields) for name, fields in found["steps"].items()}

    def add(self, name: str, outcome: Outcome) -> None:
        """In place of an earlier one of this step."""
        self._outcomes[name] = outcome
        steps = {step: asdict(one) for step, one in self._outcomes.items()}
        write_whole(self._folder / "results.json", json.dumps({"host": self._host, "steps": steps}, indent=1) + "\n")
        write_whole(self._folder / "results.md", self._markdown())

    def failed(self) -> bool:
        """Whether any did."""
        return any(outcome.status == "failed" for outcome in self._outcomes.values())

    def _markdown(self) -> str:
        parts = ["# The kernels on a GPU", *([ON_THE_HOST] if self._host else []), _overview(self._outcomes)]
        parts += [_section(name, outcome) for name, outcome in self._outcomes.items()]
        return "\n\n".join(parts) + "\n"


def _overview(outcomes: dict[str, Outcome]) -> str:
    rows = [[name, one.status, f"{one.seconds:.0f}"] for name, one in outcomes.items()]
    return markdown(Table("", ["step", "", "s"], rows))


def _section(name: str, outcome: Outcome) -> str:
    parts = [f"## {name}: {outcome.status}", *outcome.sentences]
    if outcome.facts:
        parts.append(markdown(Table("", ["", ""], [[key, value] for key, value in outcome.facts.items()])))
    parts += [f"### {table.title}\n\n{markdown(table)}" for table in outcome.tables]
    if outcome.why:
        parts.append(f"```text\n{outcome.why}\n```")
    return "\n\n".join(parts)


def markdown(table: Table) -> str:
    """A table's rows under its columns."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")
