"""`param_groups`: every parameter of a model with its norm and radius."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normball._numeric import repeats
from normball.groups.overrides import Key, Override, Value, parse, positive
from normball.groups.plan import Plan, Row
from normball.groups.rules import Kind, kind_of
from normball.groups.slots import Slot, slots_of
from normball.groups.storage import ROLES, VECTORS, Raw, Storage
from normball.norms import Norm
from normball.polar import Polar

# The radius of a bias as a part of `input_radius`.
_BIASES = 0.25


def param_groups(
    model: nn.Module,
    *,
    radius: float = 5.0,
    input_radius: float = 1.0,
    output_radius: float = 32.0,
    polar: Polar | None = None,
    overrides: Mapping[Key, Value] | None = None,
) -> Plan:
    """Give every parameter of a model its norm and its radius, and report which rule did so.

    The first layer gets `Spectral(scale="input")`, the last one `Sign()`, layers between them
    `Spectral()`, embedding tables `Column(transposed=True)`, vectors `RMS()`, and kernels
    `SpectralConv` where a matrix gets `Spectral`; the other cases are in `docs/param-groups.md`.
    First and last mean the order in which the model registers its layers. A shared parameter is
    placed once; if it is both an embedding and a head, it counts as the last layer. Frozen
    parameters are placed too, so that they train once they are unfrozen; until then they have no
    gradient, and the optimizer keeps nothing for them. Only types, names and shapes matter, so a
    model on the meta device works too.

    Args:
        model: a module; for compiled and wrapped ones, names are those of the module inside.
        radius: radius of hidden layers, in units of their norms. Layers for queries and keys,
            recognised by name, get half of it, because both factors of a score move. The second
            factor of a low-rank pair of rank `r` gets `sqrt(r / d_out)` of it.
        input_radius: radius of the first layer, of embedding tables, and of vectors, which count as
            tables of one row. A table of more than 64 rows gets `sqrt(rows / 64)` times that, at
            most four times, because a row moves only when it occurs in a batch. Biases get a
            quarter, because a bias moves the output of all examples alike.
        output_radius: radius of the last layer. With the default, a step of length 1/64, the
            default of `ClippedScion`, moves an output by at most a half if inputs have root mean
            square 1.
        polar: the polar factor of every spectral norm that a rule chooses; by default `Auto()`.
        overrides: other settings for some parameters. A key is a pattern of names (as in `fnmatch`)
            or a module type. A value is a dict with some of `norm`, `radius`, `lr` and `alpha`, or
            one of the roles `input`, `hidden`, `output`, `embedding`, `bias`, `vector`. Later
            entries win. A module type applies to the weights that such modules hold themselves, or
            to their vectors if they hold nothing else.

    Returns:
        A list of dicts `{"params": [(name, parameter), ...], "norm": ..., "radius": ...}`, one for
        each distinct role and settings, for any optimizer of this package.

    Raises:
        TypeError: `model` is not a module; a radius, `polar`, a key or a value has a type that is
            not documented.
        ValueError: a parameter that no rule knows (the message names all of them, and what to
            write), an override that matches nothing or has an unknown role or setting, a norm that
            does not fit its parameter, a radius, `lr` or `alpha` that is not positive and finite, a
            lazy module without shapes (run one batch first), or nothing to train.

    Examples:
        >>> import torch
        >>> from normball import param_groups
        >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50))
        >>> print(param_groups(model, output_radius=8.0))
        name      shape     role       norm                     radius  rule
        0.weight  (50, 16)  embedding  Column(transposed=True)  1       embedding table
        1.weight  (50, 16)  output     Sign()                   8       last layer, linear
        1.bias    (50,)     bias       RMS()                    0.25    bias
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"param_groups takes the model itself, a torch.nn.Module, got {type(model).__name__}"
        )
    radii = dict.fromkeys(ROLES, positive("input_radius", input_radius))
    radii |= {"bias": _BIASES * input_radius, "hidden": positive("radius", radius)}
    radii |= {"output": positive("output_radius", output_radius)}
    if not isinstance(polar, Polar | None):
        raise TypeError(f"polar={polar!r} must be an object of normball.polar, such as Nonic()")
    slots = slots_of(model)
    _check_parameters(slots)
    entries = parse(overrides, slots)
    findings = _findings(slots)
    # Modules for which a type in the overrides applies to weights only, not to vectors.
    weighty = {id(s.module) for f in findings if f.role not in VECTORS for s in f.slots}
    rows = [_row(finding, entries, weighty, radii, polar) for finding in findings]
    _check_placed(findings, rows)
    groups: dict[Hashable, dict[str, Any]] = {}
    for finding, row in zip(findings, rows, strict=True):
        if row.norm is not None:
            extra = {k: v for e in _speaking(finding, entries, weighty) for k, v in e.extra}
            kind = (row.role, row.norm, row.radius, *sorted(extra.items()))
            group = groups.setdefault(kind, {"params": []})
            group |= {"norm": row.norm, "radius": row.radius, **extra}
            group["params"].append((row.name, finding.slots[0].parameter))
    return Plan(list(groups.values()), rows, model)


@dataclass(frozen=True)
class _Finding:
    """A parameter, all its places in the model, and the role that the rules give it."""

    slots: list[Slot]
    role: str
    """`hidden` if no rule knows the parameter; an override with a norm keeps this role."""
    storage: Storage
    rule: str
    """Empty if no rule knows the parameter."""
    share: float = 1.0
    """Its radius divided by that of its role."""


def _check_parameters(slots: Sequence[Slot]) -> None:
    lazy = [slot.name for slot in slots if is_lazy(slot.parameter)]
    if lazy:
        raise ValueError(f"{', '.join(lazy)}: a lazy module has no shapes yet; run one batch first")
    if not any(slot.parameter.requires_grad for slot in slots):
        raise ValueError("the model has no parameter that requires a gradient: nothing to train")


def _findings(slots: Sequence[Slot]) -> list[_Finding]:
    places: dict[int, list[tuple[Slot, Kind | None]]] = {}
    order = []
    for slot in slots:
        kind = kind_of(slot)
        places.setdefault(id(slot.parameter), []).append((slot, kind))
        if kind is not None and kind.spot:
            order.append((kind.spot, id(slot.parameter)))
    heads, first = _ends(order)
    return [_finding(found, key in heads, key == first) for key, found in places.items()]


def _ends(order: list[tuple[str, int]]) -> tuple[set[int], int | None]:
    """Return which parameters are heads, and which one is the first layer if there is one.

    Args:
        order: spot and id of every parameter that has a spot, in the order of registration.
    """
    tables = {key for spot, key in order if spot == "table"}
    layers = [(spot, key) for spot, key in order if spot != "table"]
    heads = {key for spot, key in layers if spot == "layer" and key in tables}
    if not heads and layers and layers[-1][0] == "layer":
        heads = {layers[-1][1]}
    if order and order[0][0] == "layer" and order[0][1] not in heads:
        return heads, order[0][1]
    return heads, None


def _finding(places: list[tuple[Slot, Kind | None]], head: bool, first: bool) -> _Finding:
    slots = [slot for slot, _ in places]
    kinds = [kind for _, kind in places if kind is not None]
    if not kinds:
        return _Finding(slots, "hidden", Raw(slots[0].shape), "")
    if head or first:
        kind = next(kind for kind in kinds if kind.spot == "layer")
        if any(kind.spot == "table" for kind in kinds):
            return _Finding(slots, "output", kind.storage, "tied embedding and head")
        role, which = ("output", "last") if head else ("input", "first")
        return _Finding(slots, role, kind.storage, f"{which} layer, {kind.rule}")
    kind = kinds[0]
    return _Finding(slots, kind.role, kind.storage, kind.rule, kind.share)


def _speaking(finding: _Finding, entries: list[Override], weighty: set[int]) -> list[Override]:
    """Return the entries that apply to a parameter."""
    speaking = []
    for entry in entries:
        slots = [s for s in finding.slots if entry.matches(s)]
        if not isinstance(entry.key, str) and finding.role in VECTORS:
            slots = [s for s in slots if id(s.module) not in weighty]
        if slots:
            speaking.append(entry)
    return speaking


def _row(
    finding: _Finding,
    entries: list[Override],
    weighty: set[int],
    radii: dict[str, float],
    polar: Polar | None,
) -> Row:
    """Return the row of a parameter; `norm` is None if no rule and no override gives one."""
    name, shape = finding.slots[0].name, finding.slots[0].shape
    others = tuple(slot.name for slot in finding.slots[1:])
    role, rule = finding.role, finding.rule
    norm = _with_polar(finding.storage.norm(role), polar) if rule else None
    radius = finding.share * radii[role]
    frozen = not finding.slots[0].parameter.requires_grad
    for entry in _speaking(finding, entries, weighty):
        rule = entry.label
        if entry.role is not None:
            role, radius = entry.role, radii[entry.role]
            norm = _with_polar(finding.storage.norm(role), polar)
            if norm is None and not frozen:
                raise ValueError(
                    f"{rule}: the shape {tuple(shape)} of {name!r} does not tell its norm in the "
                    f"role {role!r}; state it, for instance {{'norm': Spectral()}}"
                )
        norm = norm if entry.norm is None else entry.norm
        radius = radius if entry.radius is None else entry.radius
    if frozen:
        if norm is None or not _may_train(finding.slots[0].parameter, norm):
            return Row(name, shape, "frozen", None, None, "requires_grad=False", others)
        rule = f"{rule}, frozen"
    return Row(name, shape, role, norm, radius, rule, others)


def _may_train(parameter: Tensor, norm: Norm) -> bool:
    """Tell whether an optimizer takes the parameter, for instance once it is unfrozen."""
    dtype = parameter.dtype
    if not dtype.is_floating_point or dtype.itemsize < 2 or parameter.layout != torch.strided:
        return False
    if repeats(parameter):
        return False
    try:
        norm.check(parameter.shape)
    except ValueError:
        return False
    return True


def _with_polar(norm: Norm | None, polar: Polar | None) -> Norm | None:
    """Return the norm with another polar factor, also in the norms that it is made of."""
    if norm is None or polar is None:
        return norm
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(norm):  # type: ignore[arg-type]
        value = getattr(norm, field.name)
        if isinstance(value, Polar):
            changes[field.name] = polar
        elif isinstance(value, Norm):
            changes[field.name] = _with_polar(value, polar)
    return dataclasses.replace(norm, **changes)  # type: ignore[type-var]


def _check_placed(findings: list[_Finding], rows: list[Row]) -> None:
    unknown, unfit = [], []
    for finding, row in zip(findings, rows, strict=True):
        if row.role == "frozen":
            continue
        if row.norm is None:
            unknown.append(finding.slots[0])
            continue
        try:
            row.norm.check(row.shape)
        except ValueError as error:
            unfit.append(f"{row.name}: {error}")
    if unknown:
        raise ValueError(_refusal(unknown))
    if unfit:
        raise ValueError("\n".join(unfit))


def _refusal(slots: list[Slot]) -> str:
    lines = [f"no rule places {len(slots)} of the parameters, and none is guessed:"]
    for slot in slots:
        lines.append(f"  {slot.name}, shape {tuple(slot.shape)}, in {type(slot.module).__name__}")
    lines.append("Say what they are (docs/param-groups.md), starting for instance from")
    lines.append("overrides={")
    for slot in slots:
        lines.append(f"    {slot.name!r}: {{'norm': Spectral()}},")
    lines.append("}")
    lines.append("Spectral() is for matrices (out, in), and for stacks of them (count, out, in).")
    if any(len(slot.shape) == 2 for slot in slots):
        lines.append("A matrix stored (in, out): Transposed(Spectral()).")
        lines.append("A table with one row per index: Column(transposed=True).")
    if any(len(slot.shape) == 3 for slot in slots):
        lines.append("A stack stored (count, in, out): Transposed(Spectral(), dims=(1, 2)).")
    if any(len(slot.shape) > 2 for slot in slots):
        lines.append("A kernel (out, in, *taps): SpectralConv().")
    lines.append("A bias or a scale: RMS().")
    return "\n".join(lines)
