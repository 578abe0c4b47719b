"""The numbers of a step, over all layers of all ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normball import parallel
from normball.optim.blocks import Bundle
from normball.optim.geometry import gather
from normball.optim.terms import Term


class Totals(NamedTuple):
    """The numbers of all layers together, 0-d; but `per_group` has one entry per group.

    `per_group` is that of this rank. `size` is what the threshold is compared with: the gap of a
    constrained step, else the dual norm.
    """

    per_group: Tensor
    dual: Tensor
    size: Tensor
    corner: Tensor | None


def totals(
    bundles: Sequence[Bundle],
    terms: Sequence[Term],
    corners: Sequence[Tensor] | None,
    groups: int,
    constrained: bool,
    stages: parallel.Stages | None,
    zero: Tensor | None,
) -> Totals:
    """Return the dual norm, the size that the threshold is compared with, and the largest corner.

    Args:
        bundles: those of this step.
        terms: of each, settled.
        corners: the corners, of which the largest is returned; None if it is not needed.
        groups: number of parameter groups.
        constrained: whether the terms have products.
        stages: where ranks hold different parameters.
        zero: 0-d, the value for a stage without a layer.
    """
    # In 64 bit, because there the product of two finite 32-bit numbers is finite.
    duals = [b.first.radius * t.dual for b, t in zip(bundles, terms, strict=True)]
    products = [(t.product, dual) for t, dual in zip(terms, duals, strict=True)]
    gaps = [product + dual for product, dual in products if product is not None]
    per_group = _per_group(bundles, terms, duals, groups, zero)
    corner = gather(corners).amax() if corners else None
    if stages is None:
        dual = per_group.sum()
        return Totals(per_group, dual, gather(gaps).sum() if constrained else dual, corner)
    assert zero is not None
    dual, *more = add_up(bundles, [duals, gaps] if constrained else [duals], stages, zero)
    if corners is not None:
        corner = parallel.largest(zero if corner is None else corner)
    return Totals(per_group, dual, more[0] if more else dual, corner)


def add_up(
    bundles: Sequence[Bundle],
    rows: Sequence[Sequence[Tensor]],
    stages: parallel.Stages | None,
    like: Tensor,
) -> list[Tensor]:
    """Return the sum of each row over all layers of all ranks, 0-d.

    Args:
        bundles: those of this step.
        rows: each of one 0-d number for every bundle.
        stages: where ranks hold different parameters.
        like: 0-d, which gives dtype and device.
    """
    if stages is None:
        return [sum(row, torch.zeros_like(like)) for row in rows]
    counted = [bundle.first.counted for bundle in bundles]
    owners = [b.first.owner for b, kept in zip(bundles, counted, strict=True) if kept]
    kept = [[v for v, kept in zip(row, counted, strict=True) if kept] for row in rows]
    return stages.sums(kept, owners, like)


def _per_group(
    bundles: Sequence[Bundle],
    terms: Sequence[Term],
    duals: Sequence[Tensor],
    groups: int,
    zero: Tensor | None,
) -> Tensor:
    first = duals[0] if duals else zero
    assert first is not None
    nothing = torch.zeros_like(first)
    sums = [nothing] * groups
    shared = []
    for bundle, term, dual in zip(bundles, terms, duals, strict=True):
        if bundle.groups is None:
            group = bundle.first.group
            sums[group] = sums[group] + dual.to(first.device)
        else:
            shared.append((bundle.groups.to(first.device), _shares(term, dual).to(first.device)))
    found = gather(sums)
    for index, shares in shared:
        found = found.index_add(0, index, shares)
    return found


def _shares(term: Term, dual: Tensor) -> Tensor:
    """Divide the dual norm of a bundle among its blocks, in proportion to `<d, update>`."""
    assert term.parts is not None
    total = term.parts.sum()
    return dual * torch.where(total == 0, 0, term.parts / total)
