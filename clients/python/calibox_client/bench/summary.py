"""What a loop's answers say."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from calibox_client.bench.loops import Tally
from calibox_client.latencies import latency_summary

_STAGE = re.compile(r"([!#$%&'*+.^_`|~0-9a-z-]+)[^,]*?;\s*dur=([0-9.]+)")


def summary_of(tally: Tally, about: Mapping[str, Any]) -> dict[str, Any]:
    """One row: counts, throughput, latencies and stages in milliseconds.

    ``requests``, ``answered``, latencies and stages are of what was due in the measured seconds; ``answered_per_s`` is
    of the good answers that came in them. ``errors`` has a count per code, ``broken`` for lost connections. Latencies
    and stages are of good answers; the stages as the server measured them.
    """
    good = [answer for answer in tally.answers if answer.status == 200]
    return {
        **about,
        "seconds": tally.end - tally.begin,
        "requests": len(tally.answers),
        "answered": len(good),
        "answered_per_s": tally.completed / (tally.end - tally.begin),
        "errors": dict(Counter(answer.code for answer in tally.answers if answer.status != 200)),
        "latency_ms": latency_summary([answer.latency * 1e3 for answer in good]),
        "stages_ms": {name: latency_summary(times) for name, times in stages(a.server_timing for a in good).items()},
        **({"late_ms": latency_summary([late * 1e3 for late in tally.lateness])} if tally.lateness else {}),
    }


def stages(headers: Any) -> dict[str, list[float]]:
    """Milliseconds per stage of ``Server-Timing`` headers (https://www.w3.org/TR/server-timing/)."""
    found: dict[str, list[float]] = defaultdict(list)
    for header in headers:
        for name, spent in _STAGE.findall(header):
            found[name].append(float(spent))
    return dict(found)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Two tables: latencies per row, and the stages' medians and 99th percentiles."""
    from rich.console import Console
    from rich.table import Table

    table = Table("load", "answers/s", "p50 ms", "p90", "p95", "p99", "max", "errors", title_justify="left")
    for row in rows:
        latencies = [row["latency_ms"][name] for name in ("p50", "p90", "p95", "p99", "max")]
        errors = ", ".join(f"{count} {code}" for code, count in row["errors"].items())
        table.add_row(load_name(row), f"{row['answered_per_s']:.1f}", *map(_number, latencies), errors or "none")
    names = list(dict.fromkeys(name for row in rows for name in row["stages_ms"]))
    stage_table = Table("stages, p50 / p99 ms", *names)
    for row in rows:
        cells = (row["stages_ms"].get(name, latency_summary([])) for name in names)
        stage_table.add_row(load_name(row), *(f"{_number(cell['p50'])} / {_number(cell['p99'])}" for cell in cells))
    console = Console()
    console.print(table)
    if names:
        console.print(stage_table)


def load_name(row: Mapping[str, Any]) -> str:
    """What a row is of."""
    return f"{row['rate']:g} per s" if row["mode"] == "open" else f"{row['concurrency']} at once"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
