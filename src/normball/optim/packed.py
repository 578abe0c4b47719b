"""A momentum in 8 bits: blocks of 32 integers that share a power of two.

The format is MXINT8 of the Open Compute Project's Microscaling Formats, version 1.0. A parameter of
shape `(m, ...)` with `n` entries in each of its `m` rows is kept as an int8 tensor of the shape
`(m, n + ceil(n / 32))`: the `n` integers of a row from -127 to 127, then the exponents of its
blocks. An entry is `integer * 2^exponent`, and so a number of bfloat16, exactly. No block reaches
over the end of a row, so rows can rest, be stacked, and lie on different ranks. A tensor of zeros
stands for zeros.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32
# 2^-126 is the smallest normal number of float32 and of bfloat16.
_LOWEST = -126


def shape_of(shape: torch.Size) -> torch.Size:
    """Return the shape in which a parameter of two or more dimensions is packed."""
    rows, row = shape[0], shape[1:].numel()
    return torch.Size((rows, row + -(-row // BLOCK)))


def pack(x: Tensor, random: Tensor | None = None) -> Tensor:
    """Pack rows: the exponent of a block is the least with which its integers stay within 127.

    Args:
        x: shape `(..., n)`, float32, finite and at most half of the largest number.
        random: int32 of the shape of `x`, uniform in `[0, 65536)`: entries are rounded up or down
            so that the mean is kept, to 2^-17 of a unit. Without it they are rounded to the
            nearest. In both cases an entry that the block can hold exactly is kept.

    Returns:
        Shape `(..., n + ceil(n / 32))`, int8.
    """
    n = x.shape[-1]
    blocks = _blocks(x)
    largest = blocks.abs().amax(-1)
    # The exponent of the largest entry, one more if its first 7 bits would round up to 128.
    exponents = (largest.view(torch.int32).add_(2**17 - 1) >> 23).sub_(133).clamp_(min=_LOWEST)
    units = blocks * (127 - exponents).bitwise_left_shift_(23).view(torch.float32).unsqueeze(-1)
    codes = units.flatten(-2)[..., :n]
    if random is None:
        codes += 0.5
    else:
        codes += random.to(x.dtype).add_(0.5).div_(2**16)
    return torch.cat([codes.floor_().to(torch.int8), exponents.to(torch.int8)], -1)


def unpack(packed: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Return the entries, exactly.

    Args:
        packed: shape `(..., n + ceil(n / 32))`, int8.
        n: entries in a row.
        dtype: bfloat16, float32 or float64.

    Returns:
        Shape `(..., n)`, in new memory.
    """
    exponents = packed[..., n:].to(torch.int32)
    scales = exponents.add_(127).bitwise_left_shift_(23).view(torch.float32).to(dtype)
    codes = _blocks(packed[..., :n]).to(dtype)
    return codes.mul_(scales.unsqueeze(-1)).flatten(-2)[..., :n].contiguous()


def _blocks(x: Tensor) -> Tensor:
    n = x.shape[-1]
    return pad(x, (0, -n % BLOCK)).view(*x.shape[:-1], -(-n // BLOCK), BLOCK)
