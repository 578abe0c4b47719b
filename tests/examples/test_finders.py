"""`find_lr` inside of trainers: the curve of a plain loop, and no trace in the training."""

import copy

import pytest
import torch
from torch.nn import functional as F

from normball import ClippedScion, find_lr, param_groups

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers, on their own matters


def network(dropout=0.0):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.Dropout(dropout), torch.nn.BatchNorm1d(16),
        torch.nn.Linear(16, 3),
    )  # fmt: skip


def data():
    made = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=made)
    return x, x[:, :3].argmax(1)


def values(model):
    return copy.deepcopy(list(model.state_dict().values()))


def same(one, other):
    return all(map(torch.equal, one, other))


def plain(accumulate, steps):
    """Return the curve of a loop of a few lines, over the same batches in order."""
    model = network().train()
    optimizer = ClippedScion(param_groups(model), average=0.1)
    x, y = data()
    pieces = list(zip(x.split(16), y.split(16), strict=True)) * steps
    at = iter(pieces)

    def closure():
        optimizer.zero_grad()
        total = 0.0
        for _ in range(accumulate):
            a, b = next(at)
            loss = F.cross_entropy(model(a), b) / accumulate
            loss.backward()
            total += loss.item()
        return total

    return find_lr(optimizer, closure, model=model, steps=steps)


class Lightning:
    def __init__(self, folder):
        self.package, self.folder = pytest.importorskip("lightning.pytorch"), folder

    def fit(self, *callbacks, dropout=0.0, numbered=True, module=None, workers=None, **settings):
        class Module(self.package.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = network(dropout)

            def loss(self, batch):
                loss = F.cross_entropy(self.net(batch[0]), batch[1])
                self.log("loss", loss, on_step=True, on_epoch=True)
                return loss

            if numbered:

                def training_step(self, batch, number):
                    assert 0 <= number < 4
                    return {"loss": self.loss(batch)}
            else:

                def training_step(self, batch):
                    return self.loss(batch)

            def configure_optimizers(self):
                return ClippedScion(param_groups(self), average=0.1)

        module = module or Module()
        trainer = self.package.Trainer(
            default_root_dir=self.folder, accelerator="cpu", devices=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            callbacks=list(callbacks), **{"max_epochs": 3} | settings,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*data()),
            batch_size=16,
            shuffle=workers is not None,
            num_workers=workers or 0,
            persistent_workers=bool(workers),
        )
        torch.manual_seed(1)
        trainer.fit(module, loader)
        return trainer, module


def assert_equal(curve, reference):
    assert curve.lrs == reference.lrs
    # The same operations on the same batches; sums of losses are in float32 there, float64 here.
    assert curve.losses == pytest.approx(reference.losses, rel=1e-5)
    assert curve.suggestion == reference.suggestion


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("numbered", [True, False])
def test_in_lightning_the_curve_is_that_of_a_loop(accumulate, numbered, tmp_path):
    from normball.lightning import LrFinder

    finder = LrFinder(steps=20)
    Lightning(tmp_path).fit(finder, accumulate_grad_batches=accumulate, numbered=numbered)
    assert_equal(finder.curve, plain(accumulate, 20))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_in_lightning_it_leaves_no_trace(workers, tmp_path):
    """Dropout and the order of the data come from torch's random numbers."""
    from normball.lightning import LrFinder

    made = Lightning(tmp_path)
    settings = {"dropout": 0.1, "workers": workers}
    without, module = made.fit(**settings)
    expected = values(module)
    finder = LrFinder(steps=20)
    trainer, module = made.fit(finder, **settings)
    assert len(finder.curve.lrs) > 4
    assert same(values(module), expected)
    assert "log" not in vars(module)
    assert trainer.callback_metrics["loss"] == without.callback_metrics["loss"]


def test_in_lightning_what_cannot_be_measured_is_refused(tmp_path):
    from normball.lightning import LrFinder

    made = Lightning(tmp_path)

    class Manual(made.package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.automatic_optimization = network(), False

        def training_step(self, batch, _):
            raise AssertionError

        def configure_optimizers(self):
            return ClippedScion(param_groups(self))

    module = Manual()
    before = values(module)
    with pytest.raises(ValueError, match="automatic_optimization=False"):
        made.fit(LrFinder(), module=module)
    assert same(values(module), before)


def test_in_lightning_scaled_gradients_are_refused(tmp_path):
    """On a CPU Lightning makes a scaler for no precision, but takes the plugin that has one."""
    from normball.lightning import LrFinder

    made, finder = Lightning(tmp_path), LrFinder(steps=20)
    precision = made.package.plugins.MixedPrecision("16-mixed", "cpu")
    with pytest.raises(
        ValueError, match=r'of fp16\'s gradients: use precision="bf16-mixed" or None'
    ):
        made.fit(finder, plugins=[precision])
    assert finder.curve is None


class Wrapped(torch.nn.Module):
    """A network as the Trainer calls it."""

    def __init__(self, dropout):
        super().__init__()
        self.net = network(dropout)

    def forward(self, x, labels):
        return {"loss": F.cross_entropy(self.net(x), labels)}


@pytest.fixture
def made(tmp_path):
    """Return a function that makes a Trainer, with the finder or without."""
    pytest.importorskip("transformers")
    from transformers import Trainer, TrainingArguments

    from normball.transformers import LrFinder, TrainerMixin

    class Shuffled(TrainerMixin, Trainer):
        pass

    class InOrder(TrainerMixin, Trainer):
        def _get_train_sampler(self, *_):
            return None

    x, y = data()
    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]

    def make(options, dropout=0.0, **settings):
        trainer = (Shuffled if dropout else InOrder)(
            model_init=lambda: Wrapped(dropout),
            args=TrainingArguments(
                output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=16,
                save_strategy="no", max_grad_norm=0, report_to="none", disable_tqdm=True,
                use_cpu=True, warmup_steps=2, **settings,
            ),
            train_dataset=rows,
        )  # fmt: skip
        finder = LrFinder(trainer, **(options or {}))
        if options is not None:
            trainer.add_callback(finder)
        return trainer, finder

    return make


@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_the_trainer_the_curve_is_that_of_a_loop(accumulate, made):
    trainer, finder = made({"steps": 20}, gradient_accumulation_steps=accumulate)
    trainer.train()
    assert_equal(finder.curve, plain(accumulate, 20))


def test_in_the_trainer_it_leaves_no_trace(made):
    without, nothing = made(None, dropout=0.1, logging_steps=1)
    without.train()
    assert nothing.curve is None
    trainer, finder = made({"steps": 20}, dropout=0.1, logging_steps=1)
    trainer.train()
    assert len(finder.curve.lrs) > 4
    assert same(values(trainer.model), values(without.model))
    losses = [[row.get("loss") for row in run.state.log_history] for run in (trainer, without)]
    assert len(losses[0]) == 13
    assert losses[0] == losses[1]


def test_in_the_trainer_a_search_that_fails_leaves_the_weights(made):
    trainer, _ = made({"steps": 3})
    with pytest.raises(ValueError, match=r"^steps=3 must be a whole number of at least 10$"):
        trainer.train()
    assert same(values(trainer.model.net), values(network()))


def test_in_the_trainer_scaled_gradients_are_refused(made):
    """Accelerate makes a scaler for fp16, but none on a CPU: here it gets one."""
    trainer, finder = made({"steps": 20})
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"scale of fp16's gradients: set bf16=True in its place"):
        trainer.train()
    assert finder.curve is None
    assert same(values(trainer.model.net), values(network()))


def test_a_warm_up_changes_no_curve():
    """It starts at a step size of 0; layers keep the ratios that it leads to."""
    curves = []
    for warm in (False, True):
        model = network().train()
        plan = param_groups(model, overrides={"0.weight": {"lr": 0.5}, "3.weight": {"lr": 0.1}})
        optimizer = ClippedScion(plan)
        if warm:
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
            assert {group["lr"] for group in optimizer.param_groups} == {0.0}
        x, y = data()

        def closure(model=model, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        curves.append(find_lr(optimizer, closure, model=model, steps=20))
    assert curves[0] == curves[1]
