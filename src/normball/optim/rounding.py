"""Stochastic rounding of the momentum: the mean of what is stored is what was computed.

Rounding to the nearest number loses a change of less than half a unit in the last place, so an
average of weight `alpha` stands still while it is off by up to `1 / alpha` such halves. Here a
value between two numbers of the format becomes the upper one with the probability of its distance
from the lower one.
"""

import torch
from torch import Tensor

from normball import parallel
from normball._scalar import Flag
from normball.optim.buckets import Bucket, Param

_MASK = 2**32 - 1


class Dither:
    """Random bits that are a function of the step, the parameter and the place of an entry.

    Every index of every dimension of a parameter has a random odd number of 32 bits, new in every
    step. An entry takes bits 16 to 31 of the product of the numbers of its indices. So two entries
    have independent bits, a rank that holds a part of a parameter finds those of its entries
    alone, and replicas, resumed runs and captured steps round alike. torch's generators are not
    used.
    """

    def __init__(self) -> None:
        self.steps = torch.zeros((), dtype=torch.int64)
        """How many steps moved the weights; a skipped one draws no bits."""

    def took(self, moved: Flag) -> None:
        """Count a step, if it moved the weights."""
        self.steps = self.steps.to(moved.device if isinstance(moved, Tensor) else "cpu")
        self.steps += moved

    def factors(self, bucket: Bucket) -> list[Tensor]:
        """Return the numbers of this step, int32, one tensor for every dimension of a parameter.

        They broadcast to the shape of the bucket's tensor, of this rank's part if it is sharded.
        """
        if bucket.seeds is None:
            bucket.seeds = torch.stack([_seeds(param) for param in bucket.params])
        key = _mix(self.steps.to(bucket.seeds.device) + 1)
        # All bits of an int64 beyond the 32nd are 0; the conversion keeps the lower 32.
        numbers = _mix(bucket.seeds ^ key).bitwise_or_(1).to(torch.int32)
        numbers = numbers if bucket.stacked else numbers[0]
        sizes = list(bucket.first.shard.shape)
        if not sizes:
            return [numbers.reshape(-1)]
        lead, ones = numbers.shape[:-1], [1] * len(sizes)
        return [
            part.view(*lead, *ones[:dim], sizes[dim], *ones[dim + 1 :])
            for dim, part in enumerate(torch.split(numbers, sizes, -1))
        ]


def bits(factors: list[Tensor], rows: slice) -> Tensor:
    """Return random numbers of 16 bits, int32, for some indices of the first dimension."""
    parts = [f[rows] if f.shape[0] > 1 else f for f in factors]
    product = parts[0]
    for part in parts[1:]:
        product = product * part
    if len(parts) == 1:
        product = product.clone()
    return product.bitwise_right_shift_(16).bitwise_and_(0xFFFF)


def rounded(x: Tensor, random: Tensor) -> Tensor:
    """Round float32 to bfloat16, up or down with the probability that keeps the mean.

    The lower 16 bits of a float32 say how far its magnitude is from the next smaller bfloat16. The
    sum with 16 random bits carries into the upper half with that probability, exactly. A number of
    bfloat16 keeps its bits.

    Args:
        x: float32, finite and at most half of the largest number; overwritten.
        random: int32 of the shape of `x`, uniform in `[0, 65536)`; overwritten.

    Returns:
        bfloat16, of the shape of `x`.
    """
    total = random.add_(x.view(torch.int32)).bitwise_and_(-(2**16))
    return total.view(torch.float32).to(torch.bfloat16)


def _seeds(param: Param) -> Tensor:
    """Return a number for every index of every dimension, those of this rank, one after another."""
    whole, here = param.tensor.shape, param.shard
    cut = parallel.cut_of(param.tensor)
    lows = [s.start for s in cut.slices] if cut is not None and cut.boxes else [0] * len(whole)
    first, places = 1, []
    for low, size, part in zip(lows, whole, here.shape, strict=True):
        places.append(torch.arange(first + low, first + low + part, device=here.device))
        first += size
    if not places:
        places.append(torch.ones(1, dtype=torch.int64, device=here.device))
    return _mix(torch.cat(places)) ^ _number_of(param.name)


def _number_of(name: str) -> int:
    """Return the FNV-1a hash of a name, 32 bits."""
    number = 0x811C9DC5
    for letter in name:
        number = (number ^ ord(letter)) * 0x01000193 & _MASK
    return number


def _mix(x: Tensor) -> Tensor:
    """Scramble integers of 32 bits, held in int64; one to one.

    Two rounds of shift and multiplication (by Mueller's constant, which no product of 32 bits
    takes beyond int64).
    """
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    return x ^ (x >> 16)
