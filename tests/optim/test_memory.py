"""What a step allocates, counted storage by storage."""

import pytest
import torch

from benchmarks.memory import Live
from normball import GGNC, ClippedScion, Scion
from normball.norms import Column, Euclidean, Row, Sign, Spectral, Transposed


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_with_the_gradients_memory_a_table_needs_no_other(maximize, nesterov):
    table = torch.nn.Parameter(torch.randn(4096, 256))
    matrix = torch.nn.Parameter(torch.randn(64, 64))
    groups = [{"params": [table], "norm": Sign()}, {"params": [matrix], "norm": Spectral()}]
    options = {"maximize": maximize, "nesterov": nesterov}
    optimizer = ClippedScion(groups, 1e-3, rho=1.0, reuse_grad=True, **options)
    known = []
    for _ in range(2):  # the first step makes the momentum
        table.grad, matrix.grad = torch.randn_like(table), torch.randn_like(matrix)
        known = [table, matrix, table.grad, matrix.grad]
        known += [state["momentum"] for state in optimizer.state.values()]
        with Live(known) as live:
            optimizer.step()
    piece = 2**18
    matrix_work = 20 * matrix.numel()
    assert live.peak <= 4 * (piece + matrix_work + 64) < 4 * table.numel()


PIECE = 4 * 2**18


@pytest.mark.parametrize("rho", [1.0, "auto"])
@pytest.mark.parametrize("norm", [Sign(), Row(), Column(transposed=True)], ids=str)
def test_a_large_table_needs_pieces_only_though_gradients_stay(norm, rho):
    """Of some copies of a piece; Column(False), whose lines cross rows, holds its update."""
    assert peak(lambda p: ClippedScion(p, 1e-3, rho=rho, norm=norm, radius=1.0), [(4096, 256)]) <= (
        6 * PIECE
    )
    crossing = Column()
    found = peak(lambda p: ClippedScion(p, 1e-3, rho=1.0, norm=crossing, radius=1.0), [(4096, 256)])
    assert found > 4 * 4096 * 256


@pytest.mark.parametrize("options", [
    {"rho": 1.0}, {"rho": "auto"}, {"rho": 1.0, "maximize": True}, {"rho": 1.0, "nesterov": False},
    {"rho": 1.0, "alpha": 1.0}, {"rho": 1.0, "state_dtype": torch.int8},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("norm", [Sign(), Row(), Column(transposed=True), Transposed(Sign())],
                         ids=str)  # fmt: skip
def test_pieces_take_the_step_of_the_whole(norm, options, monkeypatch):
    """Only the sum of the dual norm is in another order: within eps for each of the pieces."""

    def trained():
        torch.manual_seed(0)
        table = torch.nn.Parameter(torch.randn(60, 40))
        optimizer = ClippedScion([table], 1e-2, norm=norm, radius=1.0, **options)
        sizes = []
        for step in range(4):
            table.grad = torch.randn(60, 40)
            table.grad[step::3] = 0
            optimizer.step()
            sizes.append(float(optimizer.metrics()["dual_norm"]))
        return table.detach(), sizes

    whole, sizes = trained()
    monkeypatch.setattr("normball._numeric._PIECE", {"cpu": 200})
    table, others = trained()
    eps = 60 * torch.finfo(torch.float32).eps
    assert others == pytest.approx(sizes, rel=eps)
    assert torch.allclose(table, whole, rtol=eps, atol=eps)


def test_without_reuse_the_peak_is_the_updates_and_a_little():
    """4.3 bytes for each parameter, on the matrices of six layers of a GPT, a third as wide."""
    shapes = 6 * [(432, 144), (144, 144), (576, 144), (144, 576)]
    entries = sum(m * n for m, n in shapes)

    def make(params):
        return ClippedScion([{"params": params, "norm": Spectral()}], 1e-3, rho=1.0)

    assert peak(make, shapes) <= 4.3 * entries


@pytest.mark.parametrize("norm", [Sign(), Spectral(), Row()], ids=str)
def test_without_a_threshold_one_layer_at_a_time_is_held(norm):
    """Scion's step needs no number of all layers: eight take what two take."""
    layer = (192, 160)

    def make(params):
        return Scion([{"params": params, "norm": norm}], 1e-3)

    assert peak(make, 8 * [layer]) <= peak(make, 2 * [layer]) + 1024


@pytest.mark.parametrize(("dtype", "held"), [(torch.bfloat16, 2), (torch.int8, 1 + 1 / 32)])
def test_bytes_of_a_momentum_in_few_bits(dtype, held):
    """The state, and at most as much again as its estimates and steps in bfloat16."""
    shapes = 8 * [(192, 160)]
    made = []

    def make(params):
        groups = [{"params": params, "norm": Sign()}]
        made.append(ClippedScion(groups, 1e-3, rho=1.0, state_dtype=dtype))
        return made[0]

    entries = 8 * 192 * 160
    found = peak(make, shapes)
    state = sum(x.nbytes for s in made[0].state.values() for x in s.values())
    assert state == held * entries
    assert found <= 2 * entries + 24 * 192 * 160


def peak(make, shapes):
    """Return the bytes of the step's own at its peak, after a step that makes the state."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = make(params)
    for _ in range(2):
        for p in params:
            p.grad = torch.randn_like(p)
        known = [*params, *(p.grad for p in params)]
        known += [x for state in optimizer.state.values() for x in state.values()]
        with Live(known) as live:
            optimizer.step()
    return live.peak


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("norm", [Sign(), Spectral(), Row(), Column(transposed=True)], ids=str)
def test_to_look_ahead_takes_at_most_one_layer_more(norm, maximize, reuse):
    """Not a copy of all: eight layers, of which one at a time has its estimate in new memory."""
    shapes = 8 * [(192, 160)]
    layer = 4 * 192 * 160

    def make(nesterov, average=None):
        return lambda params: ClippedScion(
            [{"params": params, "norm": norm}],
            1e-3,
            rho=1.0,
            maximize=maximize,
            reuse_grad=reuse,
            nesterov=nesterov,
            average=average,
        )

    plain, ahead = peak(make(False), shapes), peak(make(True), shapes)
    assert ahead <= plain + (0 if reuse else 1) * layer + 1024
    # An average is made in its place.
    assert peak(make(True, 0.1), shapes) <= ahead + 1024


@pytest.mark.parametrize("maximize", [False, True])
def test_to_look_ahead_takes_no_more_of_a_table(maximize):
    def make(nesterov):
        options = {"maximize": maximize, "nesterov": nesterov}
        return lambda p: ClippedScion([{"params": p, "norm": Sign()}], 1e-3, rho=1.0, **options)

    piece = 4 * 2**18
    assert peak(make(True), [(4096, 256)]) <= peak(make(False), [(4096, 256)]) + piece + 1024


@pytest.mark.parametrize("reuse", [False, True])
def test_to_look_ahead_under_one_norm_takes_at_most_one_parameter_more(reuse):
    shapes = 8 * [(192, 160)]

    def make(nesterov):
        options = {"alpha": 0.1, "nesterov": nesterov, "reuse_grad": reuse}
        return lambda p: GGNC(p, gamma=1e-3, rho=1.0, norm=Euclidean(), **options)

    assert peak(make(True), shapes) <= peak(make(False), shapes) + 4 * 192 * 160 + 1024


def test_averages_and_weights_change_places_one_at_a_time():
    params = [torch.nn.Parameter(torch.randn(192, 160)) for _ in range(8)]
    optimizer = ClippedScion([{"params": params, "norm": Sign()}], 1e-3, rho=1.0, average=0.1)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for change in (optimizer.eval, optimizer.train):
        with Live([*params, *(x for s in optimizer.state.values() for x in s.values())]) as live:
            change()
        assert live.peak == 4 * 192 * 160
