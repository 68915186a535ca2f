"""`--fail-under AP=0.30`: least values that an evaluation must reach."""

from collections.abc import Mapping, Sequence
from typing import Any

from calibox_client.evaluation.errors import EvaluationError

FAILED = 3  # exit status; 1 is an error, 2 a wrong command line


def read_limits(texts: Sequence[str]) -> dict[str, float]:
    """Metrics and the least that they must be.

    Raises:
        EvaluationError: a text is not ``NAME=NUMBER`` with a number within 0..1.
    """
    limits = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            limits[name.strip()] = least = float(number)
        except ValueError:
            least = float("nan")
        if not name.strip() or not 0 <= least <= 1:
            raise EvaluationError(
                f"--fail-under {text}: write a metric and the least that it must be, within 0..1, like AP=0.30"
            )
    return limits


def missed(limits: Mapping[str, float], metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for each limit that is not reached; a metric that cannot be measured reaches none.

    Raises:
        EvaluationError: a name that is no metric.
    """
    known = [name for name, value in metrics.items() if _is_metric(value)]
    if unknown := sorted(set(limits) - set(known)):
        raise EvaluationError(f"--fail-under knows no {', '.join(unknown)}; there are {', '.join(known)}")
    return [
        f"{name} is {'not measured' if metrics[name] is None else format(metrics[name], '.4f')}, below {least:g}"
        for name, least in limits.items()
        if metrics[name] is None or metrics[name] < least
    ]


def _is_metric(value: Any) -> bool:
    return value is None or (isinstance(value, float) and 0 <= value <= 1)
