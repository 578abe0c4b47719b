"""What a step allocates, counted storage by storage."""

import pytest
import torch

from benchmarks.memory import Live
from normball import GGNC, ClippedScion
from normball.norms import Column, Euclidean, Row, Sign, Spectral


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


def test_leaving_gradients_alone_costs_one_tensor_of_their_size():
    table = torch.nn.Parameter(torch.randn(4096, 256))
    optimizer = ClippedScion([{"params": [table], "norm": Sign()}], 1e-3, rho=1.0)
    for _ in range(2):
        table.grad = torch.randn_like(table)
        known = [table, table.grad, *(s["momentum"] for s in optimizer.state.values())]
        with Live(known) as live:
            optimizer.step()
    assert live.peak <= 4 * (table.numel() + 2**18 + 64)


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
