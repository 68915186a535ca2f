"""One text of metrics from those of several processes. Pure.

Counters and histograms are summed, and so are gauges, but for those of one process as such (`process_*`), which get its
name as a label, and for those whose sum says nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LARGEST = ("calibox_uptime_seconds", "calibox_build_info", "python_info")
_SMALLEST = "_created"
_OF_A_PROCESS = "process_"
_GROWING = ("counter", "histogram", "summary")


@dataclass(slots=True)
class Family:
    """One metric."""

    kind: str = "untyped"
    head: list[str] = field(default_factory=list)  # lines before its values
    values: dict[str, float] = field(default_factory=dict)  # by name and labels


def merged(texts: Mapping[str, str]) -> str:
    """The text of all processes; those whose name is empty have ended, and only what they counted stays."""
    families: dict[str, Family] = {}
    for process, text in texts.items():
        for name, family in parse(text).items():
            if process or not _ends_with_its_process(name, family):
                _add(families.setdefault(name, Family(family.kind, family.head)), name, family, process)
    return "".join(_lines(families.values()))


def counted(text: str) -> str:
    """What stays of a process that ended: what it counted."""
    return merged({"": text})


def parse(text: str) -> dict[str, Family]:
    """The families of a text in Prometheus's format, by name."""
    families: dict[str, Family] = {}
    family = Family()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = families.setdefault(line.split(" ", 3)[2], Family())
            family.head.append(line)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            family = families.setdefault(name, Family())
            family.kind = kind
            family.head.append(line)
        elif line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            family.values[series] = float(value)
    return families


def _ends_with_its_process(name: str, family: Family) -> bool:
    return family.kind not in _GROWING or name.startswith(_OF_A_PROCESS)


def _add(family: Family, name: str, more: Family, process: str) -> None:
    for series, value in more.values.items():
        if name.startswith(_OF_A_PROCESS):
            family.values[_labelled(series, process)] = value
        elif name.startswith(_LARGEST):
            family.values[series] = max(family.values.get(series, value), value)
        elif name.endswith(_SMALLEST):
            family.values[series] = min(family.values.get(series, value), value)
        else:
            family.values[series] = family.values.get(series, 0.0) + value


def _labelled(series: str, process: str) -> str:
    name, brace, labels = series.partition("{")
    return f'{name}{{process="{process}"{"," + labels if brace else "}"}'


def _lines(families: Iterable[Family]) -> Iterable[str]:
    for family in families:
        yield from (f"{line}\n" for line in family.head)
        yield from (f"{series} {_number(value)}\n" for series, value in family.values.items())


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
