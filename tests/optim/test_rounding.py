"""A momentum in 16 and in 8 bits: what is stored has the right mean, and a known error."""

import io

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion
from normball.norms import RMS, Row, Sign
from normball.optim import buckets, packed
from normball.optim.rounding import Dither, bits, rounded
from normball.polar import PolarExpress
from tests.optim.network import bits as weights_of
from tests.optim.network import build, loss, same, state_of, train
from tests.optim.optimizers import GIVEN, OPTIMIZERS
from tests.optim.tape import Tape, flags_unknown

pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")
NAMES = ("recipe", "short-step-1-ahead", "ggnc-ahead", "s3cg-1", "measured-ahead")
ROWS = [row for row in OPTIMIZERS if row.name in NAMES]
every = pytest.mark.parametrize("row", ROWS, ids=str)
formats = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
ALL = torch.arange(2**16, dtype=torch.int32)


def values(optimizer, p):
    """Return the momentum of a parameter in float64."""
    momentum = optimizer.state[p]["momentum"]
    if momentum.dtype != torch.int8:
        return momentum.double()
    return packed.unpack(momentum, p[0].numel(), torch.float64).view(p.shape)


def units(optimizer, p):
    """Return the distance to the next number of the format above the magnitude of each entry."""
    momentum = optimizer.state[p]["momentum"]
    if momentum.dtype == torch.bfloat16:
        return momentum.abs().double() * 2**-7
    n = p[0].numel()
    return torch.exp2(momentum[:, n:].double()).repeat_interleave(32, 1)[:, :n].view(p.shape)


# -- the formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x", [1.0, 1.2345, -3.1e-5, 1.99999, -1.9999999, 7e-39, 1e-44, 1.6e38, -0.0, 0.0, -3.3e37]
)
def test_the_mean_over_all_random_numbers_is_the_value(x):
    """Each of the 2^16 numbers once: the mean is exact, in numbers whose sum float64 holds."""
    x = torch.full((2**16,), x)
    out = rounded(x.clone(), ALL.clone())
    assert out.double().mean() == x[0].double()
    assert torch.equal(out.signbit(), x.signbit())
    near = x[0].to(torch.bfloat16)
    assert out.double().sub(x.double()).abs().max() <= max(abs(near.double()) * 2**-7, 2.0**-133)


def test_a_number_of_bfloat16_keeps_its_bits():
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    x = x[x.abs() <= torch.finfo(torch.bfloat16).max / 2]
    for number in (0, 1, 2**15, 2**16 - 1):
        out = rounded(x.float(), torch.full(x.shape, number, dtype=torch.int32))
        assert torch.equal(out.view(torch.int16), x.view(torch.int16))


@pytest.mark.parametrize("scale", [1.0, 3e-38, 1e-30, 1e37])
@pytest.mark.parametrize("n", [1, 5, 32, 41])
def test_the_mean_of_a_packed_row_is_the_row(scale, n):
    """To 2^-17 of a unit, as far as 16 bits can place it, and the rounding of the sum, 2^-18."""
    generator = torch.Generator().manual_seed(n)
    row = scale * torch.randn(n, generator=generator)
    many = packed.pack(row.expand(2**16, n), ALL[:, None].expand(-1, n))
    exact = packed.unpack(many, n, torch.float64)
    unit = torch.exp2(many[0, n:].double()).repeat_interleave(32)[:n]
    assert (exact.mean(0) - row).abs().div(unit).max() <= 2**-17 + 2**-18
    assert (exact - row).abs().div(unit).max() < 1
    nearest = packed.unpack(packed.pack(row), n, torch.float64)
    assert (nearest - row).abs().div(unit).max() <= 0.5 + 2**-17


def test_a_packed_row_keeps_its_bits_and_is_exact_in_bfloat16():
    """For every code beside every largest code of a block, the ends of the exponents included."""
    codes = torch.arange(-127, 128).repeat(3)
    rows = torch.zeros(len(codes), 32)
    rows[:, 0], rows[:, 1] = codes, torch.tensor([127, -127, 64]).repeat_interleave(255)
    rows = rows[rows.abs().amax(1) == rows[:, 1].abs()]
    for exponent in (-126, -60, 0, 100, 120):
        x = rows * 2.0**exponent
        for number in (0, 1, 2**15, 2**16 - 1):
            out = packed.pack(x, torch.full(x.shape, number, dtype=torch.int32))
            assert torch.equal(packed.unpack(out, 32, torch.float32), x)
        assert torch.equal(packed.unpack(out, 32, torch.bfloat16).float(), x)
        assert torch.equal(packed.pack(packed.unpack(out, 32, torch.float32)), out)


def test_the_largest_entry_decides_the_exponent():
    """127 units fit; what lies above, as 127.5, must not become the 128th."""
    x = torch.tensor([[127.0], [127.0001], [127.99], [128.0], [63.4], [0.0]])
    assert packed.pack(x)[:, 1].tolist() == [0, 1, 1, 1, -1, -126]
    top = packed.pack(x, torch.full(x.shape, 2**16 - 1, dtype=torch.int32))
    assert top[:, 0].tolist() == [127, 64, 64, 64, 127, 0]


# -- the random bits -------------------------------------------------------------------------------


def scrambled(x):
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) % 2**32
    return x ^ (x >> 16)


def expected(name, shape, index, step):
    """The definition, in Python's own integers."""
    key = scrambled(step + 1) ^ number_of(name)
    product, place = 1, 1
    for i, size in zip(index, shape, strict=True):
        product *= scrambled(scrambled(place + i) ^ key) | 1
        place += size
    return product % 2**32 >> 16


def number_of(name):
    """FNV-1a, as its authors define it for bytes."""
    number = 2166136261
    for byte in name.encode("ascii"):
        number = (number ^ byte) * 16777619 % 2**32
    return number


def test_the_hash_is_the_published_one():
    assert [number_of(name) for name in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


NAMED = ["weight", "bias", "layers.0.up.weight", "layers.1.up.weight", "head", "a"]


def drawn(shapes, steps=1, alone=True):
    """Return the bits of a bucket of parameters with these shapes in every step."""
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.zeros_like(p)
    group = {"params": params, "norm": RMS(), "lr": 0.1, "alpha": 0.1, "radius": 1.0}
    roster = buckets.Roster(NAMED[: len(params)], [group])
    made = (
        [buckets.Bucket([b]) for b in roster.params] if alone else [buckets.Bucket(roster.params)]
    )
    dither, found = Dither(), []
    for _ in range(steps):
        found.append([bits(dither.factors(bucket), slice(None)) for bucket in made])
        dither.took(torch.tensor(True))
    return found


def test_bits_are_those_of_the_definition():
    shapes = [(3,), (5, 37), (2, 3, 9), (4, 1, 2, 3), (1, 1), ()]
    for step, found in enumerate(drawn(shapes, steps=3)):
        for name, shape, tensor in zip(NAMED, shapes, found, strict=True):
            full = shape or (1,)
            assert tensor.shape == torch.Size(full)
            for flat, index in enumerate(torch.cartesian_prod(*map(torch.arange, full))):
                index = index.reshape(-1).tolist()
                assert int(tensor.flatten()[flat]) == expected(name, full, index, step)


@pytest.mark.parametrize("shape", [(), (6,), (4, 9)])
def test_small_parameters_in_a_stack_have_the_bits_they_have_alone(shape):
    alone = drawn([shape] * 3)[0]
    (stack,) = drawn([shape] * 3, alone=False)[0]
    assert torch.equal(stack, torch.stack(alone).view(stack.shape))


def test_bits_are_uniform_and_independent():
    """Means and correlations within 5 standard errors of 1,000 steps; a matrix like white noise."""
    steps, shape = 1000, (3, 4)
    rows = torch.stack([found[0].flatten() for found in drawn([shape], steps)]).double()
    rows = (rows / 2**16 - 0.5) * 12**0.5  # variance 1
    assert rows.mean(0).abs().max() < 5 / steps**0.5
    products = rows.T @ rows / steps - torch.eye(12)
    assert products.abs().max() < 5 / steps**0.5
    later = rows[1:].T @ rows[:-1] / steps
    assert later.abs().max() < 5 / steps**0.5
    two = drawn([shape] * 2, steps)
    for ahead in (0, 1):  # two parameters, in one step and in neighbouring ones
        a, b = (torch.stack([found[i].flatten() for found in two]).double() for i in (0, 1))
        a, b = ((x / 2**16 - 0.5) * 12**0.5 for x in (a[: steps - ahead], b[ahead:]))
        assert (a.T @ b / steps).abs().max() < 5 / steps**0.5
    # The largest singular value of noise of variance 1 exceeds sqrt(m) + sqrt(n) by little.
    (noise,) = drawn([(512, 256)])[0]
    noise = (noise.double() / 2**16 - 0.5) * 12**0.5
    assert torch.linalg.matrix_norm(noise, 2) < 512**0.5 + 256**0.5 + 5


# -- the momentum ----------------------------------------------------------------------------------


def averaged(dtype, alpha, steps, gradient):
    """Return an optimizer, and a parameter, after steps with one gradient."""
    p = nn.Parameter(torch.zeros_like(gradient))
    optimizer = Scion([p], 0.0, norm=Sign(), radius=1.0, alpha=alpha, state_dtype=dtype)
    for _ in range(steps):
        p.grad = gradient.clone()
        optimizer.step()
    return optimizer, p


@formats
@pytest.mark.parametrize("alpha", [0.1, 0.02])
def test_the_average_of_a_constant_gradient_arrives_where_nearest_stands_still(dtype, alpha):
    """A step's error is at most a unit, of variance at most 1/4 of its square, and independent.

    The average of weight alpha has at most 1 / (2 alpha - alpha^2) of that variance, and the mean
    of all entries a part of it. Its start is forgotten to (1 - alpha)^steps.
    """
    torch.manual_seed(0)
    gradient = torch.empty(16, 64).uniform_(0.5, 1.0)
    steps = round(6 / alpha)
    optimizer, p = averaged(dtype, alpha, steps, gradient)
    found = values(optimizer, p)
    # A unit is at most 2^-7: of bfloat16 below 2 (noise takes no entry there), of blocks below 1.
    deviation = 0.5 * 2**-7 / (2 * alpha - alpha**2) ** 0.5
    ideal = gradient.double() * (1 - (1 - alpha) ** steps)
    slack = 1e-5  # float32's own roundings, steps * eps, far less
    assert (found - ideal).mean().abs() < 5 * deviation / p.numel() ** 0.5 + slack
    assert (found - ideal).square().mean().sqrt() < 1.1 * deviation + slack
    if dtype == torch.bfloat16 and alpha == 0.02:
        nearest = torch.zeros(16, 64, dtype=dtype)
        for _ in range(steps):
            nearest = torch.lerp(nearest.float(), gradient, alpha).to(dtype)
        # It stands still where alpha (g - d) is below half a unit, of 2^-8 or more here.
        assert (ideal - nearest).mean() > 0.05


@formats
def test_the_error_of_a_step_is_below_a_unit(dtype):
    torch.manual_seed(0)
    shapes = [(6, 70), (33, 5, 3), (4, 40)]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = ClippedScion(
        [{"params": params, "norm": Row(), "radius": 1.0}], 0.1, rho=1.0, state_dtype=dtype
    )
    for _ in range(5):
        before = [values(optimizer, p) if optimizer.state else torch.zeros(p.shape) for p in params]
        for p in params:
            p.grad = torch.randn_like(p) * torch.logspace(-6, 3, len(p)).view(
                -1, *[1] * (p.ndim - 1)
            )
        optimizer.step()
        for p, old in zip(params, before, strict=True):
            exact = torch.lerp(old.double(), p.grad.double(), 0.1)
            # The step itself is in float32: four roundings, of values up to the larger addend.
            slack = 4 * torch.finfo(torch.float32).eps * (old.abs() + p.grad.abs().double())
            assert ((values(optimizer, p) - exact).abs() <= units(optimizer, p) + slack).all()


@every
@formats
def test_every_optimizer_trains_in_few_bits(row, dtype):
    """Each layer's momentum has its format, and the loss goes down as in float32."""
    model, other = build(torch.float32), build(torch.float32)
    ours = row(row.groups(model), row.learns_at, state_dtype=dtype)
    theirs = row(row.groups(other), row.learns_at)
    before = sum(loss(model, i).item() for i in range(100, 104)) / 4
    train(model, ours, 20)
    train(other, theirs, 20)
    for p in model.parameters():
        packs = dtype == torch.int8 and p.ndim > 1
        momentum = ours.state[p]["momentum"]
        assert momentum.shape == (packed.shape_of(p.shape) if packs else p.shape)
        in_full = dtype == torch.int8 and not packs
        assert momentum.dtype == (torch.float32 if in_full else dtype)
    after, exact = (sum(loss(m, i).item() for i in range(100, 104)) / 4 for m in (model, other))
    assert after - exact < 0.3 * (before - exact)


@every
@formats
def test_a_skipped_step_keeps_all_bits(row, dtype):
    model, other = build(torch.float32), build(torch.float32)
    ours, clean = (row(row.groups(m), state_dtype=dtype) for m in (model, other))
    train(model, ours, 2)
    weights, momentum = weights_of(model), state_of(ours)
    ours.zero_grad()
    loss(model, 50).backward()
    model.head.weight.grad[1, 2] = float("nan")
    ours.step()
    assert same(weights, weights_of(model))
    assert same(momentum, state_of(ours))
    # The bits that follow are those of a run in which it did not happen.
    train(model, ours, 2, start=2)
    train(other, clean, 4)
    assert same(weights_of(model), weights_of(other))
    assert same(state_of(ours), state_of(clean))


@every
@formats
def test_a_resumed_run_is_the_run(row, dtype):
    """torch's generators play no part: they are moved on in between."""
    model, other = build(torch.float32), build(torch.float32)
    ours = row(row.groups(model), state_dtype=dtype)
    train(model, ours, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": ours.state_dict()}, file)
    train(model, ours, 3, start=3)
    torch.manual_seed(99)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    resumed = row(row.groups(other), state_dtype=dtype)
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, 3, start=3)
    assert same(weights_of(model), weights_of(other))
    assert same(state_of(ours), state_of(resumed))


@pytest.mark.parametrize("source", [None, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("target", [None, torch.bfloat16, torch.int8], ids=str)
def test_a_momentum_is_converted_when_it_is_loaded(source, target):
    """To the nearest number of the new format: within half a unit."""
    row = ROWS[0]
    model, other = build(torch.float32), build(torch.float32)
    ours = row(row.groups(model), state_dtype=source)
    theirs = row(row.groups(other), state_dtype=target)
    train(model, ours, 3)
    state = ours.state_dict()
    theirs.load_state_dict(state)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        before = ours.state[p]["momentum"].clone()
        was = values(ours, p) if p.ndim > 1 else before.double()
        found = values(theirs, q) if q.ndim > 1 else theirs.state[q]["momentum"].double()
        if target is None or source == target or (source, target) == (torch.int8, torch.bfloat16):
            assert torch.equal(was, found) or p.ndim < 2
        if p.ndim > 1 and target is not None:
            assert ((was - found).abs() <= 0.5 * units(theirs, q) + 1e-30).all()
        assert torch.equal(ours.state[p]["momentum"], before)  # nothing is shared
    train(other, theirs, 2)
    assert all(p.isfinite().all() for p in other.parameters())


@formats
def test_a_row_without_a_gradient_keeps_its_bits(dtype):
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(10, 40))
    optimizer = ClippedScion([table], 0.1, rho=1.0, norm=Row(), radius=1.0, state_dtype=dtype)
    for step in range(3):
        table.grad = torch.randn(10, 40)
        if step:
            table.grad[step::2] = 0
        before = state_of(optimizer) if step else None
        rest = table.detach().clone()
        optimizer.step()
        if step:
            now = state_of(optimizer)
            assert torch.equal(before[0][step::2], now[0][step::2])
            assert torch.equal(rest[step::2], table[step::2])
            assert not torch.equal(before[0][step - 1 :: 2], now[0][step - 1 :: 2])


@formats
def test_pieces_of_a_large_table_are_the_table(dtype, monkeypatch):
    def trained():
        torch.manual_seed(0)
        table = nn.Parameter(torch.randn(70, 50))
        optimizer = ClippedScion([table], 0.1, rho=1.0, norm=Sign(), radius=1.0, state_dtype=dtype)
        for _ in range(3):
            table.grad = torch.randn(70, 50)
            optimizer.step()
        return state_of(optimizer) | {"weights": table.detach()}

    whole = trained()
    monkeypatch.setattr("normball._numeric._PIECE", {"cpu": 230})
    assert same(whole, trained())


@pytest.mark.parametrize("row", [row for row in ROWS if row in GIVEN], ids=str)
@formats
@flags_unknown()
def test_a_replayed_step_draws_new_bits(row, dtype):
    """What a CUDA graph would run again: the count of steps is a tensor that it moves on."""
    model, other = build(torch.float32), build(torch.float32)
    polar = PolarExpress()
    ours = row(row.groups(model, polar), capturable=True, state_dtype=dtype)
    theirs = row(row.groups(other, polar), state_dtype=dtype)
    tape = Tape()
    for step in range(5):
        for m in (model, other):
            grads = torch.autograd.grad(loss(m, step), list(m.parameters()))
            for p, g in zip(m.parameters(), grads, strict=True):
                p.grad = g.clone() if p.grad is None else p.grad.copy_(g)
        theirs.step()
        if step < 2:
            ours.step()
        elif step == 2:
            with tape:
                ours.step()
        else:
            with torch.no_grad():
                tape.replay()
        assert same(weights_of(model), weights_of(other))
        assert same(state_of(ours), state_of(theirs))
