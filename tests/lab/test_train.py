import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from normball.lab.config import SCHEDULES
from normball.lab.data import load_digits, load_shakespeare
from normball.lab.models import Airbench, small_cnn
from normball.lab.optimizers import OPTIMIZERS, configure
from normball.lab.results import EpochReport, RunResult
from normball.lab.scalars import Scalars
from normball.lab.schedules import factor
from normball.lab.tasks import find_task
from normball.lab.train import Trainer, accuracy
from tests import needs
from tests.lab.conftest import put_cifar_pack, put_text
from tests.lab.samples import NETWORKS, config


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.state.model.parameters()])


@pytest.mark.parametrize("name", needs.optimizers(OPTIMIZERS))
def test_equal_settings_give_equal_weights_bit_for_bit(name: str) -> None:
    run = config(name, model=NETWORKS.get(name))
    first, second = Trainer(run), Trainer(run)
    torch.manual_seed(3)
    one = first.run()
    torch.manual_seed(4)
    two = second.run()
    assert torch.equal(weights(first), weights(second))
    assert one.losses == two.losses
    assert one.trace == two.trace
    assert one.score == two.score
    other = Trainer(config(name, seed=1, epochs=1, model=NETWORKS.get(name)))
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
    assert result.score == pytest.approx(right)
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
    assert [report.score for report in reports] == result.scores
    assert {report.trace_name for report in reports} == {"gap"}
    assert reports[-1].traced == result.trace[-1]
    assert all(report.per_second > 0 for report in reports)


def test_a_run_that_diverges_ends_with_a_result() -> None:
    result = Trainer(config("adam", lr=1e30, epochs=5)).run()
    assert result.diverged
    assert not math.isfinite(result.train_loss)
    assert result.epochs_done == 1
    assert 0 <= result.score <= 0.2


def test_an_undefined_logit_counts_as_wrong() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor([[1.0, 0.0], [nan, 0.0], [inf, 0.0], [0.0, 1.0]])
    classes = torch.tensor([0, 0, 0, 0])
    assert accuracy(torch.nn.Identity(), [(logits, classes)]) == 0.25


def test_parts_of_a_mini_batch_add_up_to_the_whole() -> None:
    """Under an optimizer whose steps are linear in the gradient: others enlarge its rounding."""
    whole, parts = (
        Trainer(config("sgd-clip", epochs=1)),
        Trainer(config("sgd-clip", epochs=1, accumulate=4)),
    )
    one, two = whole.run(), parts.run()
    # 11 steps, each a mean over 128 images, as a walk of 128 roundings.
    rounding = 11 * 128**0.5 * torch.finfo(torch.float32).eps
    assert torch.allclose(weights(whole), weights(parts), rtol=rounding, atol=rounding)
    assert one.train_loss == pytest.approx(two.train_loss, rel=rounding)


def test_a_step_outside_is_clipped_as_torch_does_it() -> None:
    trainer = Trainer(config("sgd-clip", lr=0.1, rho=0.5, epochs=1))
    result = trainer.run()
    data = load_digits()
    torch.manual_seed(0)
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    shuffled = torch.randperm(1437, generator=torch.Generator().manual_seed(0))
    above = 0
    for batch in torch.split(shuffled[: 11 * 128], 128):
        model.zero_grad()
        F.cross_entropy(model(data.train_x[batch]), data.train_y[batch]).backward()
        above += bool(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5) >= 0.5)
        optimizer.step()
    assert torch.equal(
        weights(trainer), torch.cat([p.detach().flatten() for p in model.parameters()])
    )
    assert result.clipped_share == above / 11


def test_text_is_trained_on_and_scored_by_its_loss(root: Path) -> None:
    put_text(root)
    run = configure(
        find_task("shakespeare"), "clipped-scion", epochs=2, batch_size=4, test_size=4, width=0.25
    )
    trainer = Trainer(run)
    result = trainer.run()
    data = load_shakespeare(test_windows=4)
    x, y = next(iter(data.test_batches()))
    logits = trainer.state.model(x)
    expected = -logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).mean()
    assert result.score == pytest.approx(float(expected.detach()), rel=1e-5)
    assert result.scores[-1] < math.log(data.vocabulary)
    assert result.steps == 50
    assert "text.txt" in result.data


@pytest.mark.parametrize(
    ("optimizer", "model"),
    [
        ("clipped-scion", "cnn"),
        ("clipped-scion", "vit-tiny"),
        ("adamw", "mlp"),
        pytest.param("muon", "mlp", marks=needs.muon),
    ],
)
def test_bfloat16_is_autocast_around_weights_that_stay_float32(optimizer: str, model: str) -> None:
    small = 2.0**-14
    run = config(optimizer, small, model=model, precision="bfloat16", batch_size=64, train_size=128)
    trainer, plain = Trainer(run), Trainer(replace(run, precision="float32"))
    data = load_digits()
    half = trainer.state.model
    batch = torch.randperm(1437, generator=torch.Generator().manual_seed(0))[:64]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half(data.train_x[batch]).dtype == torch.bfloat16
    result, expected = trainer.run(), plain.run()
    # Eight bits of mantissa: near the run in float32, and not the same.
    assert result.losses == pytest.approx(expected.losses, rel=0.02)
    assert result.losses != expected.losses
    assert math.isfinite(result.score)
    assert all(p.dtype == torch.float32 for p in half.parameters())


def test_text_trains_in_bfloat16(root: Path) -> None:
    put_text(root)

    def train(lr: float, precision: str) -> RunResult:
        run = configure(
            find_task("shakespeare"),
            "clipped-scion",
            lr=lr,
            rho=100.0,
            epochs=1,
            batch_size=2,
            test_size=2,
            precision=precision,
        )
        return Trainer(run).run()

    half, full = (train(2.0**-30, precision) for precision in ("bfloat16", "float32"))
    assert half.score == pytest.approx(full.score, rel=0.01)
    assert half.train_loss != full.train_loss
    # Dual norms are sums over many directions of little gradient, which rounding adds to.
    assert half.trace == pytest.approx(full.trace, rel=0.05)
    learned = train(2.0**-9, "bfloat16")
    assert learned.score < 0.8 * half.score
    assert learned.skipped == 0


def test_the_inner_product_is_the_weights_part_of_the_gap() -> None:
    trainer = Trainer(config("clipped-scion", constrained=True, lr=0.01))
    result = trainer.run()
    assert len(result.inner) == 2
    optimizer = trainer.state.optimizer
    total = sum(
        -float((optimizer.state[p]["momentum"].double() * p.detach().double()).sum())
        for group in optimizer.param_groups
        for p in group["params"]
    )
    assert result.inner[-1] == pytest.approx(total)
    assert Trainer(config("clipped-scion", epochs=1)).run().inner == []


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_its_formula(name: str) -> None:
    steps, warmup = 40, 0.1
    found = [factor(name, k, steps, warmup) for k in range(steps + 1)]
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    expected = {
        "constant": lambda k: 1.0,
        "linear": lambda k: (steps - k) / 36,
        "cosine": lambda k: math.cos(math.pi * (k - 4) / 72) ** 2,
        "trapezoidal": lambda k: 1.0 if k < 28.6 else (1 - k / 40) / 0.285,
    }[name]
    assert found[4:] == pytest.approx([expected(k) for k in range(4, steps + 1)], abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_may_last_to_the_end(name: str) -> None:
    found = [factor(name, k, 11, 0.99) for k in range(12)]
    assert found[:11] == [(k + 1) / 11 for k in range(11)]
    assert found[11] == pytest.approx(float(name == "constant"))


def test_scalars_are_what_was_reported(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = Scalars(tmp_path)
    result = Trainer(config("clipped-scion")).run(scalars.write)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in read.Scalars("loss")] == pytest.approx(result.losses)
    assert [event.step for event in read.Scalars("score")] == [1, 2]
    assert read.Scalars("dual_norm")[-1].value == pytest.approx(result.trace[-1])


def test_whitening_sees_training_images_alone(root: Path) -> None:
    put_cifar_pack(root)
    run = configure(
        find_task("cifar10"), "scion", width=0.125, batch_size=10, epochs=1, train_size=20
    )
    data = find_task("cifar10").data(run)
    expected = Airbench(channels=3, size=32, classes=10, width=0.125)
    expected.whiten(data.scaled(data.train_x))
    assert torch.equal(Trainer(run).state.model.whitening.weight, expected.whitening.weight)
