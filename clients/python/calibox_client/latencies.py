"""Many times in a few numbers."""

from collections.abc import Sequence

import numpy as np


def latency_summary(milliseconds: Sequence[float]) -> dict[str, float | None]:
    """Mean, percentiles (linear between neighbours) and maximum; None without any."""
    names = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    if not milliseconds:
        return {"mean": None, **dict.fromkeys(names)}
    values = np.asarray(milliseconds, np.float64)
    return {"mean": float(values.mean()), **{name: float(np.percentile(values, at)) for name, at in names.items()}}
