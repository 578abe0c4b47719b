import math

import pytest
import torch
from torch.nn import functional as F

from normball.lab.data import load_digits
from normball.lab.models import small_cnn
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.train import EpochReport, Trainer, accuracy
from tests.lab.samples import config


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.state.model.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equal_settings_give_equal_weights_bit_for_bit(name: str) -> None:
    first, second = Trainer(config(name)), Trainer(config(name))
    torch.manual_seed(3)
    one = first.run()
    torch.manual_seed(4)
    two = second.run()
    assert torch.equal(weights(first), weights(second))
    assert one.losses == two.losses
    assert one.trace == two.trace
    assert one.test_accuracy == two.test_accuracy
    other = Trainer(config(name, seed=1, epochs=1))
    other.run()
    assert not torch.equal(weights(first), weights(other))


def test_a_run_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Trainer(config("adam", epochs=1)).run()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_is_the_plain_loop() -> None:
    trainer = Trainer(config("adam", lr=0.01, seed=5))
    result = trainer.run()

    data = load_digits()
    torch.manual_seed(5)
    model = small_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(5)
    for _ in range(2):
        losses = []
        shuffled = torch.randperm(1437, generator=order)
        for start in range(0, 1437 - 128 + 1, 128):
            batch = shuffled[start : start + 128]
            loss = F.cross_entropy(model(data.train_x[batch]), data.train_y[batch])
            model.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    expected = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(weights(trainer), expected)
    assert result.train_loss == pytest.approx(math.fsum(losses) / 11, rel=1e-6)
    right = (model(data.test_x).argmax(1) == data.test_y).float().mean().item()
    assert result.test_accuracy == pytest.approx(right)
    assert (result.trace, result.trace_name, result.clipped_share) == ([], None, None)


def test_the_trace_is_the_dual_norm_of_every_step() -> None:
    trainer = Trainer(config("clipped-scion", epochs=1))
    groups = trainer.state.optimizer.param_groups
    data = load_digits()
    batch = torch.randperm(1437, generator=torch.Generator().manual_seed(0))[:128]
    loss = F.cross_entropy(trainer.state.model(data.train_x[batch]), data.train_y[batch])
    loss.backward()
    # From d = 0, the first estimate is alpha times the gradient.
    dual = sum(
        float(group["radius"] * group["norm"].dual_norm(group["alpha"] * p.grad))
        for group in groups
        for p in group["params"]
    )
    result = trainer.run()
    assert result.trace_name == "dual_norm"
    assert len(result.trace) == 11
    assert result.trace[0] == pytest.approx(dual, rel=1e-4)
    above = sum(value >= trainer.config.rho for value in result.trace)
    assert result.clipped_share == pytest.approx(above / 11)
    assert result.skipped == 0


def test_a_long_trace_is_thinned_evenly() -> None:
    result = Trainer(config("scion", batch_size=2, epochs=1)).run()
    full = 1437 // 2
    assert len(result.trace) <= 512
    assert len(result.trace) == math.ceil(full / result.trace_every)
    assert result.clipped_share is None


def test_every_epoch_is_reported() -> None:
    reports: list[EpochReport] = []
    result = Trainer(config("scion", constrained=True, lr=0.01)).run(reports.append)
    assert [report.epoch for report in reports] == [1, 2]
    assert [report.loss for report in reports] == result.losses
    assert [report.accuracy for report in reports] == result.accuracies
    assert {report.trace_name for report in reports} == {"gap"}
    assert reports[-1].traced == result.trace[-1]
    assert all(report.images_per_second > 0 for report in reports)


def test_a_run_that_diverges_ends_with_a_result() -> None:
    result = Trainer(config("adam", lr=1e30, epochs=5)).run()
    assert result.diverged
    assert not math.isfinite(result.train_loss)
    assert result.epochs_done == 1
    assert 0 <= result.test_accuracy <= 0.2


def test_an_undefined_logit_counts_as_wrong() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor([[1.0, 0.0], [nan, 0.0], [inf, 0.0], [0.0, 1.0]])
    classes = torch.tensor([0, 0, 0, 0])
    assert accuracy(torch.nn.Identity(), logits, classes) == 0.25
