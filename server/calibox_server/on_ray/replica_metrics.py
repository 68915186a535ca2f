"""One text of metrics from those of all replicas, each value with the name of its replica.

A sum would fall whenever a replica goes, which Prometheus takes for a restart of all the others.
"""

from collections.abc import Mapping

from calibox_server.workers.exposition import parse

LABEL = "replica"


def by_replica(texts: Mapping[str, str]) -> str:
    """The text of all replicas, by name."""
    heads: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}
    for replica, text in texts.items():
        for name, family in parse(text).items():
            heads.setdefault(name, family.head)
            told = (f"{_labelled(series, replica)} {value!r}" for series, value in family.values.items())
            values.setdefault(name, []).extend(told)
    return "".join(f"{line}\n" for name, head in heads.items() for line in (*head, *values[name]))


def _labelled(series: str, replica: str) -> str:
    name, brace, labels = series.partition("{")
    return f'{name}{{{LABEL}="{replica}"{"," + labels if brace else "}"}'
