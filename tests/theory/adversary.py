"""Functions whose constants are known, drawn from vectors of numbers, and a search over these."""

from dataclasses import dataclass, replace

import numpy as np
import torch

_PIECES = 6
_PER_LINE = 2 * _PIECES + 4
_LINES = 3
_CUTS = 16
SIZE = _LINES * _PER_LINE + 12


class Line:
    """A function of one number whose slope is a piecewise linear function, constant outside.

    It need not be convex. `knots` are increasing; `slopes` are those of the function there, the
    first one not positive and the last one not negative, so that there is a minimum.
    """

    def __init__(self, numbers):
        widths = np.exp(1.5 * numbers[:_PIECES])
        slopes = numbers[_PIECES : 2 * _PIECES + 1] * np.exp(numbers[-2] * 2)
        # Some functions are steep on one side, like an exponential.
        slopes = slopes * np.exp(numbers[-1] * np.linspace(-2, 2, _PIECES + 1))
        slopes[0], slopes[-1] = -abs(slopes[0]), abs(slopes[-1])
        if numbers[-3] > 0:
            slopes.sort()  # convex
        self.knots = np.concatenate([[0.0], widths.cumsum()]) - widths.sum() / 2
        self.slopes = slopes
        self.curvatures = np.diff(slopes) / widths
        gains = (slopes[1:] + slopes[:-1]) / 2 * widths
        self.values = np.concatenate([[0.0], gains.cumsum()])

    def slope(self, x):
        return np.interp(x, self.knots, self.slopes)

    def value(self, x):
        """Of a number, or of a 0-d tensor: then with the right derivative."""
        place = x.item() if isinstance(x, torch.Tensor) else x
        i = int(np.searchsorted(self.knots, place))
        if i == 0:
            return self.slopes[0] * (x - self.knots[0])
        i -= 1
        h = x - self.knots[i]
        curvature = self.curvatures[i] if i < _PIECES else 0.0
        return self.values[i] + self.slopes[i] * h + curvature * h * h / 2

    def infimum(self, beta=np.inf):
        """Over `[-beta, beta]`: at an end, at a knot, or where the slope crosses 0."""
        down = self.slopes[:-1] * self.slopes[1:] < 0
        zeros = self.knots[:-1][down] - self.slopes[:-1][down] / self.curvatures[down]
        points = np.concatenate([self.knots, zeros, [-beta, beta] if beta < np.inf else []])
        return min(float(self.value(x)) for x in points if abs(x) <= beta)

    def smoothness(self, L1):
        """The least `L0` for this `L1`, rounded up to a grid.

        On the way from `x` to `y` the slope changes by at most the largest curvature there. So `L0`
        is at least a curvature less `L1` times every `|slope|` that is at most `1/L1` away.
        """
        if L1 == 0:
            return float(np.abs(self.curvatures).max())
        shares = np.linspace(0, 1, _CUTS + 1)
        fine = np.unique(np.concatenate([a + (b - a) * shares for a, b in self._pairs()]))
        # The constant parts outside; beyond 1/L1 nothing is near.
        fine = np.concatenate([[fine[0] - 1 / L1], fine, [fine[-1] + 1 / L1]])
        ends = self.slope(fine)
        low = np.where(ends[:-1] * ends[1:] <= 0, 0, np.minimum(abs(ends[:-1]), abs(ends[1:])))
        bend = np.abs(np.diff(ends) / np.diff(fine))
        apart = np.maximum(fine[:-1, None] - fine[None, 1:], fine[None, :-1] - fine[1:, None])
        excess = bend[None, :] - L1 * low[:, None]
        return float(max(excess[apart <= 1 / L1].max(), 1e-12))

    def _pairs(self):
        return zip(self.knots[:-1], self.knots[1:], strict=True)


@dataclass(frozen=True)
class Case:
    """A sum of lines, one for each coordinate, with a start and what is left of the numbers."""

    lines: list
    x0: np.ndarray
    rest: np.ndarray

    def delta(self, beta=np.inf):
        """`f(x_1) - inf f`, over the box of half-width `beta`, and not less for its rounding."""
        above = sum(line.value(x) - line.infimum(beta) for line, x in self._pairs())
        return float(above + self.rounding())

    def rounding(self):
        """Of a value at the start or below it: it is a sum of numbers of these sizes."""
        sizes = [abs(line.values).max() + abs(line.value(x)) for line, x in self._pairs()]
        return 64 * np.finfo(float).eps * float(sum(sizes))

    def rounding_of_slope(self):
        """Of a dual norm, in any of the three norms."""
        return 64 * np.finfo(float).eps * float(sum(abs(line.slopes).max() for line in self.lines))

    def value(self, x):
        return sum(line.value(one) for line, one in zip(self.lines, x, strict=True))

    def _pairs(self):
        return zip(self.lines, self.x0, strict=True)

    def in_box(self, beta):
        return replace(self, x0=np.clip(self.x0, -beta, beta))

    def smoothness(self, L1, summed):
        """`L0` in the max norm, where the lines' add up, or in the Euclidean norm or l1."""
        each = [line.smoothness(L1) for line in self.lines]
        return sum(each) if summed else max(each)


def case(numbers):
    """The case of a vector of `SIZE` numbers of about 1."""
    count = 1 + int(abs(numbers[-1]) * 3) % _LINES
    cut = _LINES * _PER_LINE
    lines = [Line(part) for part in np.split(numbers[:cut], _LINES)][:count]
    reach = [line.knots[-1] * 1.5 for line in lines]
    x0 = np.array(reach) * np.tanh(numbers[cut : cut + count])
    return Case(lines, x0, numbers[cut + _LINES :])


def search(ratio, seed, draws, rounds):
    """The largest `ratio(numbers)` found: random draws, then small changes of the best ones."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        numbers = generator.standard_normal(SIZE)
        found.append((ratio(numbers), tuple(numbers)))
    for _ in range(rounds):
        found = sorted(found, reverse=True)[:8]
        for _, old in list(found):
            scale = 10 ** generator.uniform(-2, 0)
            mask = generator.random(SIZE) < generator.choice([0.1, 0.5, 1.0])
            numbers = np.array(old) + scale * mask * generator.standard_normal(SIZE)
            found.append((ratio(numbers), tuple(numbers)))
    best, numbers = max(found)
    return best, np.array(numbers)
