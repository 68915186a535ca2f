"""Which anchors pass a level's cut to its best, certainly or possibly, when two frameworks compute the keys.

Letters: A anchors, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.fusion import Exponents, log_key

Mask = NDArray[np.bool_]


class LevelCut(NamedTuple):
    """A level of which only the best anchors go on."""

    anchors: slice  # of the level
    kept: int  # how many go on, fewer than there are
    exponents: Exponents | None = None  # of the key that cuts; None: the request's


class PassedAnchors(NamedTuple):
    """Bool ``[A]`` each."""

    must: Mask  # pass on either side
    may: Mask  # can pass
    own: Mask  # pass by this side's keys, ties by index


def level_cuts(counts: Sequence[int], per_level_top_k: int) -> tuple[LevelCut, ...]:
    """The cuts of levels with ``counts`` anchors each, finest first; levels that are kept whole have none."""
    ends = np.cumsum([0, *counts]).tolist()
    return tuple(
        LevelCut(slice(start, start + count), per_level_top_k)
        for start, count in zip(ends, counts, strict=False)
        if count > per_level_top_k
    )


def passed_anchors(
    p: NDArray[Any], q: NDArray[Any], exponents: Exponents, cuts: Sequence[LevelCut], *, tie: float
) -> PassedAnchors:
    """Anchors that pass their level's cut by the key of their best class.

    Args:
        p: float32 ``[A, C]`` of all anchors.
        q: float32 ``[A, 1]`` or ``[A, C]``.
        exponents: of the ranking key.
        cuts: of the levels that are cut.
        tie: keys that lie closer together than this, as logarithms, may have another order on the other side.
    """
    found = PassedAnchors(*(np.ones(len(p), bool) for _ in PassedAnchors._fields))
    for level, kept, own_exponents in cuts:
        keys = log_key(p[level], q[level], own_exponents or exponents).max(axis=1)
        rising = np.sort(keys)
        found.must[level] = len(keys) - np.searchsorted(rising, keys - tie, side="left") <= kept
        found.may[level] = len(keys) - np.searchsorted(rising, keys + tie, side="right") < kept
        own = np.zeros(len(keys), bool)
        own[np.argsort(-keys, kind="stable")[:kept]] = True
        found.own[level] = own
    return found
