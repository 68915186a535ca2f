"""Histograms as Prometheus reads them, written from plain counts: the library's objects cost much more."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def head(family: str, text: str) -> list[str]:
    """The lines before a histogram's values."""
    return [f"# HELP {family} {text}", f"# TYPE {family} histogram"]


def values(
    family: str, labels: Mapping[str, str], edges: Sequence[float], counts_N: NDArray[np.int64], total: float
) -> Iterator[str]:
    """The lines of one set of labels.

    Args:
        family: its name.
        labels: by name.
        edges: upper edges of the buckets but the last, which has none.
        counts_N: int64 ``[len(edges) + 1]``, values in each bucket.
        total: sum of all values.
    """
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    cumulative = np.cumsum(counts_N).tolist()
    for edge, count in zip([*map(repr, map(float, edges)), "+Inf"], cumulative, strict=True):
        yield f'{family}_bucket{{{shown},le="{edge}"}} {count}'
    yield f"{family}_count{{{shown}}} {cumulative[-1]}"
    yield f"{family}_sum{{{shown}}} {total!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
