"""Which earlier step a record is decoded from: few records for every read, and few bytes stored twice.

The distance n of a step from its keyframe is written in the combinatorial number system of degree k,
n = C(c_k, k) + … + C(c_1, 1) with c_k > … > c_1 ≥ 0, and its base is the step at the distance that is left without the
last term that is not 0. A step is thus decoded from at most k records besides the keyframe, and records span on average
the fewest steps for which that can hold. Source: J. L. Bentley, J. B. Saxe, "Decomposable searching problems I",
J. Algorithms 1 (1980), the k-binomial transform.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb
from typing import Final

DELTAS: Final = 9
"""How many records a step is decoded from at most, besides its keyframe."""


@lru_cache(maxsize=4096)
def base_distance(distance: int, deltas: int = DELTAS) -> int:
    """Return the distance from the keyframe at which the base of a step is.

    Args:
        distance: the step's own distance from its keyframe, above 0.
        deltas: how many records the step may be decoded from, besides the keyframe.
    """
    left = distance
    for degree in range(deltas, 0, -1):
        term = _largest_term(left, degree)
        if left == term:
            return distance - term
        left -= term
    raise AssertionError("the term of degree 1 leaves nothing")


def _largest_term(number: int, degree: int) -> int:
    top = degree - 1
    while (above := comb(top + 1, degree)) <= number:
        top += 1
        if above == number:
            return above
    return comb(top, degree)
