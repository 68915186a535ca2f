"""PromQL taken apart: which series a query asks for, and by which labels it groups them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser


@dataclass(frozen=True)
class Selected:
    """One selector of a query."""

    name: str
    equal: dict[str, str]  # label="value"
    labels: frozenset[str]  # all that it names, and all that something around it groups by


def selected(query: str) -> list[Selected]:
    """The selectors of a query.

    Raises:
        ValueError: it is not PromQL.
    """
    return list(_below(promql_parser.parse(query), frozenset()))


def _below(part: Any, grouped: frozenset[str]) -> Iterator[Selected]:
    if isinstance(part, promql_parser.VectorSelector):
        matchers = part.matchers.matchers
        equal = {m.name: m.value for m in matchers if m.op == promql_parser.MatchOp.Equal}
        yield Selected(part.name, equal, grouped | {m.name for m in matchers})
        return
    if isinstance(part, promql_parser.AggregateExpr):
        # What is grouped by inside is all that is left outside, so the outer labels are asked of the same series.
        grouped |= frozenset(part.modifier.labels if part.modifier else ())
    for name in ("expr", "vector_selector", "lhs", "rhs", "param"):
        inner = getattr(part, name, None)
        if inner is not None:
            yield from _below(inner, grouped)
    for inner in getattr(part, "args", ()):
        yield from _below(inner, grouped)
