"""Averaged weights where trainers evaluate, save, resume and end."""

import copy
import importlib
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from normball import ClippedScion, param_groups

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers, on their own matters


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def optimizer_of(model):
    return ClippedScion(param_groups(model), lr=0.02, rho=5.0, nesterov=True, average=0.5)


def batches(steps):
    made = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 8, generator=made), torch.randint(3, (16,), generator=made))
        for _ in range(steps)
    ]


def copied(model):
    return copy.deepcopy([p.detach() for p in model.parameters()])


def same(one, other):
    return all(map(torch.equal, one, other))


def plain(steps, data=None):
    """Return the fast and the averaged weights after a loop of a few lines, averaged by torch."""
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0, nesterov=True)

    def average(m, x, n):
        return torch.lerp(m, x, min(1.0, 1 / (0.5 * (float(n) + 1))))

    averaged = AveragedModel(model, avg_fn=average)
    for x, y in data or batches(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        averaged.update_parameters(model)
    fast, slow = copied(model), copied(averaged)
    assert not same(fast, slow)
    return fast, slow


def test_the_average_is_that_of_averaged_model():
    model = network()
    optimizer = optimizer_of(model)
    for x, y in batches(20):
        optimizer.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.eval()
    fast, slow = plain(20)
    for ours, theirs in zip(copied(model), slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    optimizer.train()
    assert same(copied(model), fast)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_accelerate_saves_and_loads_in_both_modes(mode, precision, tmp_path):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    def prepared():
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        model = network()
        return accelerator, *accelerator.prepare(model, optimizer_of(model))

    def train(accelerator, model, optimizer, data):
        for x, y in data:
            optimizer.train()
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()

    unbroken = prepared()
    train(*unbroken, batches(20))
    saved = prepared()
    train(*saved, batches(20)[:12])
    getattr(saved[2], mode)()
    saved[0].save_state(str(tmp_path))
    resumed = prepared()
    resumed[0].load_state(str(tmp_path))
    assert same(copied(resumed[1]), copied(saved[1]))
    train(*resumed, batches(20)[12:])
    for switch in ("train", "eval"):
        for run in (unbroken, resumed):
            getattr(run[2], switch)()
        assert same(copied(unbroken[1]), copied(resumed[1]))
    x, y = batches(1)[0]
    unbroken[0].backward(F.cross_entropy(unbroken[1](x), y))
    with pytest.raises(RuntimeError, match=r"optimizer\.train\(\)"):
        unbroken[2].step()


PACKAGES = ["lightning.pytorch", pytest.param("pytorch_lightning", marks=pytest.mark.slow)]


class Lightning:
    """One of the two packages, a module, and a trainer with the callback."""

    def __init__(self, name, folder):
        self.package = importlib.import_module(name)
        from normball.lightning import AverageWeights

        self.callback, self.folder = AverageWeights, folder
        made = batches(8)
        # One batch over and over: a fit that resumes within an epoch starts its data again.
        data = torch.utils.data.TensorDataset(
            *(part.repeat(4, *[1] * (part.ndim - 1)) for part in made[0])
        )
        self.train = torch.utils.data.DataLoader(data, batch_size=16)
        self.batch = made[0]
        self.held_out = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*made[1]), batch_size=16
        )

    def module(self):
        class Module(self.package.LightningModule):
            def __init__(self):
                super().__init__()
                self.net, self.seen = network(), []

            def training_step(self, batch, _):
                return F.cross_entropy(self.net(batch[0]), batch[1])

            def validation_step(self, batch, _):
                self.seen.append(copied(self.net))
                self.log("held_out", F.cross_entropy(self.net(batch[0]), batch[1]))

            def test_step(self, batch):
                self.seen.append(copied(self.net))

            def predict_step(self, batch):
                self.seen.append(copied(self.net))

            def configure_optimizers(self):
                return optimizer_of(self)

        return Module()

    def trainer(self, *callbacks, **settings):
        return self.package.Trainer(
            default_root_dir=self.folder,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, self.callback()],
            **{"max_epochs": 5} | settings,
        )

    def checkpoints(self, **settings):
        return self.package.callbacks.ModelCheckpoint(
            self.folder, save_top_k=-1, filename="{step}", **settings
        )


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("settings", [{}, {"every_n_train_steps": 3}], ids=["epochs", "steps"])
def test_lightning_trains_validates_saves_and_resumes(package, settings, tmp_path):
    lightning = Lightning(package, tmp_path)
    module = lightning.module()
    trainer = lightning.trainer(lightning.checkpoints(**settings))
    trainer.fit(module, lightning.train, lightning.held_out)
    expected = [plain(n, [lightning.batch] * n) for n in range(4, 21, 4)]
    close = {"rtol": 1e-5, "atol": 1e-6}
    assert len(module.seen) == 6  # the first is the sanity check, of the start
    assert same(module.seen[0], copied(network()))
    for seen, (_, averaged) in zip(module.seen[1:], expected, strict=True):
        torch.testing.assert_close(seen, averaged, **close)
    end = copied(module.net)
    torch.testing.assert_close(end, expected[-1][1], **close)
    trainer.optimizers[0].train()
    fast = copied(module.net)
    torch.testing.assert_close(fast, expected[-1][0], **close)

    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) >= 5
    for file in files:
        step = int(file.stem.split("=")[1])
        saved = torch.load(file, weights_only=False)["state_dict"]
        averaged = plain(step, [lightning.batch] * step)[1]
        torch.testing.assert_close(list(saved.values()), averaged, **close)
        again, resumed = lightning.module(), lightning.trainer()
        resumed.fit(again, lightning.train, lightning.held_out, ckpt_path=file)
        assert same(copied(again.net), end)
        resumed.optimizers[0].train()
        assert same(copied(again.net), fast)


def test_lightning_tests_what_was_loaded_or_the_average(tmp_path):
    lightning = Lightning("lightning.pytorch", tmp_path)
    module = lightning.module()
    kept = lightning.checkpoints()
    trainer = lightning.trainer(kept)
    trainer.fit(module, lightning.train)
    end = copied(module.net)
    module.seen.clear()
    trainer.test(module, lightning.held_out, verbose=False)
    trainer.predict(module, lightning.held_out)
    assert all(same(seen, end) for seen in module.seen)
    first = next(file for file in tmp_path.glob("*.ckpt") if file.stem == "step=4")
    saved = list(torch.load(first, weights_only=False)["state_dict"].values())
    module.seen.clear()
    trainer.validate(module, lightning.held_out, ckpt_path=first, verbose=False)
    trainer.test(module, lightning.held_out, ckpt_path=first, verbose=False)
    assert len(module.seen) == 2
    assert all(same(seen, saved) for seen in module.seen)
    assert not same(saved, end)


def test_lightning_keeps_the_average_of_a_fit_that_breaks_off(tmp_path):
    lightning = Lightning("lightning.pytorch", tmp_path)

    class Bang(lightning.package.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 6:
                raise ValueError("bang")

    module = lightning.module()
    with pytest.raises(ValueError, match="bang"):
        lightning.trainer(Bang()).fit(module, lightning.train)
    averaged = plain(6, [lightning.batch] * 6)[1]
    torch.testing.assert_close(copied(module.net), averaged, rtol=1e-5, atol=1e-6)


def test_without_lightning_the_callback_says_what_to_install():
    code = (
        "import sys; sys.modules['lightning.pytorch'] = sys.modules['pytorch_lightning'] = None; "
        "import normball.lightning"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install lightning" in done.stderr


@pytest.mark.parametrize(("value", "count"), [(1.0, 1), (None, 0)])
def test_lightning_tells_of_a_second_threshold(value, count, tmp_path):
    lightning = Lightning("lightning.pytorch", tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer = lightning.trainer(gradient_clip_val=value, max_epochs=2)
        trainer.fit(lightning.module(), lightning.train)
    told = [str(w.message) for w in seen if "gradient_clip_val" in str(w.message)]
    assert len(told) == count
    assert all("gradient_clip_val=1.0" in message and "None" in message for message in told)
