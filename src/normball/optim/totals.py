"""The numbers of a step, over all layers of all ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normball import parallel
from normball._scalar import Scalar, known, largest, number, tensor, total
from normball.optim.buckets import Bucket
from normball.optim.update import Update


class Totals(NamedTuple):
    """The numbers of all layers together; `per_group` has one for every group, of this rank.

    `size` is what the threshold is compared with: the gap of a constrained step, else the dual
    norm.
    """

    per_group: Sequence[Scalar]
    dual: Scalar
    size: Scalar
    corner: Scalar | None


def totals(
    buckets: Sequence[Bucket],
    updates: Sequence[Update],
    corners: Sequence[Scalar] | None,
    groups: int,
    constrained: bool,
    stages: parallel.Stages | None,
    zero: Tensor | None,
) -> Totals:
    """Return the dual norm, the size that the threshold is compared with, and the largest corner.

    Args:
        buckets: those of this step.
        updates: of each, settled.
        corners: the corners, of which the largest is returned; None if it is not needed.
        groups: number of parameter groups.
        constrained: whether the updates have products.
        stages: where ranks hold different parameters.
        zero: 0-d, the value for a stage without a layer.
    """
    # In 64 bit, because there the product of two finite 32-bit numbers is finite.
    duals: list[Scalar] = [b.group.radius * t.dual for b, t in zip(buckets, updates, strict=True)]
    products = [(t.product, dual) for t, dual in zip(updates, duals, strict=True)]
    gaps = [product + dual for product, dual in products if product is not None]
    per_group = _per_group(buckets, updates, duals, groups)
    corner = largest([number(corner) for corner in corners]) if corners else None
    if stages is None:
        dual = total(per_group)
        return Totals(per_group, dual, total(gaps) if constrained else dual, corner)
    assert zero is not None
    dual, *more = add_up(buckets, [duals, gaps] if constrained else [duals], stages, zero)
    if corners is not None:
        corner = known(parallel.largest(tensor(0.0 if corner is None else corner, zero)))
    return Totals(per_group, dual, more[0] if more else dual, corner)


def add_up(
    buckets: Sequence[Bucket],
    rows: Sequence[Sequence[Scalar]],
    stages: parallel.Stages | None,
    zero: Tensor | None,
) -> list[Scalar]:
    """Return the sum of each row over all layers of all ranks.

    Args:
        buckets: those of this step.
        rows: each of one number for every bucket.
        stages: where ranks hold different parameters.
        zero: 0-d, which gives dtype and device where there are stages.
    """
    if stages is None:
        return [total(row) for row in rows]
    assert zero is not None
    counted = [bucket.first.counted for bucket in buckets]
    owners = [b.first.tensor for b, kept in zip(buckets, counted, strict=True) if kept]
    kept = [[tensor(v, zero) for v, k in zip(row, counted, strict=True) if k] for row in rows]
    return [known(value) for value in stages.sums(kept, owners, zero)]


def _per_group(
    buckets: Sequence[Bucket],
    updates: Sequence[Update],
    duals: Sequence[Scalar],
    groups: int,
) -> Sequence[Scalar]:
    sums: list[list[Scalar]] = [[] for _ in range(groups)]
    shared = []
    for bucket, update, dual in zip(buckets, updates, duals, strict=True):
        if update.parts is None:
            sums[bucket.group.index].append(dual)
        elif isinstance(dual, Tensor):
            assert bucket.groups is not None
            shared.append((bucket.groups, dual * _shares(update.parts)))
        else:
            for param, share in zip(bucket.params, _shares(update.parts).tolist(), strict=True):
                sums[param.group.index].append(dual * share)
    found = [total(row) for row in sums]
    if not shared:
        return found
    vector = torch.stack([tensor(x, shared[0][1]) for x in found])
    for index, shares in shared:
        vector = vector.index_add(0, index.to(vector.device), shares.to(vector.device))
    return vector.unbind()


def _shares(parts: Tensor) -> Tensor:
    """Divide a dual norm among the parameters of a bucket, in proportion to `<d, lmo>`."""
    whole = parts.sum()
    return torch.where(whole == 0, 0, parts / whole)
