"""Small systems of linear equations.  Pure."""

from __future__ import annotations

import math
from operator import mul


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x with matrix·x = right, by Cholesky's way; both arguments are used up.

    matrix: symmetric and positive definite, only its lower triangle is read.  A direction in
    which it is not definite, or is not finite, is left alone: its x is 0.
    """
    size = len(right)
    for j in range(size):
        head = matrix[j][:j]
        pivot = matrix[j][j] - sum(map(mul, head, head))
        root = math.sqrt(pivot) if 0 < pivot < math.inf else math.inf
        matrix[j][j] = root
        right[j] = (right[j] - sum(map(mul, head, right))) / root
        for line in matrix[j + 1 :]:
            line[j] = (line[j] - sum(map(mul, line[:j], head))) / root
    for j in reversed(range(size)):
        right[j] /= matrix[j][j]
        x = right[j]
        for i in range(j):
            right[i] -= matrix[j][i] * x
    return right
