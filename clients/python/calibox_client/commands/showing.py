"""What was found, on standard output: a JSON line, a line, or a table."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from calibox_client.results import Detections


def show(name: str, found: Detections, copy: Path | None, *, as_json: bool) -> None:
    """Shows what was found in one image."""
    if as_json:
        show_json({"image": name, **({} if copy is None else {"saved": str(copy)})}, found)
    elif copy is not None:
        typer.echo(f"{name}: {len(found)} detections, drawn in {copy}")
    else:
        _show_table(name, found)


def show_json(about: Mapping[str, Any], found: Detections) -> None:
    """One line, written at once: whoever reads it from a pipe gets it while the command goes on."""
    typer.echo(json.dumps({**about, **found.as_json()}))


def counts(found: Detections) -> str:
    """How many of each class, most first: ``5 RBC, 1 WBC``."""
    return ", ".join(f"{count} {label}" for label, count in Counter(found.labels).most_common()) or "nothing"


def _show_table(name: str, found: Detections) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"{name}  {found.width} x {found.height}  {found.model}/{found.version}"
    table = Table("class", title=Text(title), title_justify="left", caption=None if len(found) else "nothing found")
    for column in ("score", "classification", "localization", "box (x1, y1, x2, y2)"):
        table.add_column(column, justify="right")
    for one in found:
        scores = (one.score, one.classification_score, one.localization_score)
        box = ", ".join(f"{value:.1f}" for value in one.box)
        table.add_row(Text(one.label), *(f"{value:.3f}" for value in scores), box)
    Console().print(table)
