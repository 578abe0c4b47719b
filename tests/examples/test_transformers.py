"""Averaged weights in Hugging Face's Trainer, which calls the optimizer's train() and eval()."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from normball import ClippedScion, Scion, param_groups

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))

pytestmark = pytest.mark.filterwarnings("ignore")  # the Trainer's own


@pytest.fixture
def trainer(tmp_path):
    """Make a Trainer of 12 steps on 40 pieces, which evaluates and saves every 4."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    from normball.transformers import TrainerMixin

    class Clipped(TrainerMixin, Trainer):
        def build_optimizer(self, model):
            return ClippedScion(
                param_groups(model), self.args.learning_rate, rho=1.0, nesterov=True, average=1.0
            )

    made = torch.Generator().manual_seed(0)
    pieces = torch.randint(64, (40, 16), generator=made).tolist()
    data = [{"input_ids": piece, "labels": piece} for piece in pieces]

    def model_init():
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, bos_token_id=1, eos_token_id=2,
            )
        )  # fmt: skip

    def make(name, *callbacks, init=False, cls=Clipped, **settings):
        set_seed(0)
        usual = {
            "learning_rate": 0.01,
            "seed": 0,
            "max_steps": 12,
            "save_steps": 4,
            "eval_steps": 4,
            "eval_strategy": "steps",
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return cls(
            **({"model_init": model_init} if init else {"model": model_init()}),
            args=TrainingArguments(output_dir=str(tmp_path / name), **usual | settings),
            train_dataset=data,
            eval_dataset=data[:16],
            callbacks=list(callbacks),
        )

    return make


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def both(trainer):
    """Return the averaged and the fast weights."""
    trainer.optimizer.eval()
    averaged = weights(trainer)
    trainer.optimizer.train()
    fast = weights(trainer)
    assert not same(averaged, fast)
    return averaged, fast


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


def saved(folder):
    return load_file(Path(folder) / "model.safetensors")


EVALUATION = [{}, {"eval_strategy": "no"}, {"eval_on_start": True}]


@pytest.mark.slow
@pytest.mark.parametrize("settings", EVALUATION, ids=["every 4", "never", "and at the start"])
def test_evaluation_changes_nothing_and_a_resumed_run_is_the_unbroken_one(
    settings, trainer, tmp_path
):
    unbroken = trainer("silent", eval_strategy="no", save_strategy="no")
    unbroken.train()
    averaged, fast = both(unbroken)
    first = trainer("first", **settings)
    first.train()
    for step in (4, 8):
        again = trainer("again", **settings)
        again.train(resume_from_checkpoint=str(tmp_path / f"first/checkpoint-{step}"))
        for run in (first, again):
            found = both(run)
            assert same(found[0], averaged)
            assert same(found[1], fast)


@pytest.mark.slow
def test_a_model_saved_after_an_evaluation_is_the_average(trainer, tmp_path):
    run = trainer("run")
    run.train()
    run.save_model(str(tmp_path / "final"))
    averaged, _ = both(run)
    assert same(averaged, saved(tmp_path / "run/checkpoint-12"))
    assert same(averaged, saved(tmp_path / "final"))


@pytest.mark.slow
def test_without_evaluation_the_callback_saves_the_average(trainer, tmp_path):
    from normball.transformers import AverageWeights

    for name, callbacks in (("plain", []), ("callback", [AverageWeights()])):
        run = trainer(name, *callbacks, eval_strategy="no")
        run.train()
        run.save_model(str(tmp_path / name))
        averaged, fast = both(run)
        expected = averaged if callbacks else fast
        assert same(expected, saved(tmp_path / name))
        assert same(expected, saved(tmp_path / name / "checkpoint-12"))
    again = trainer("again", AverageWeights(), eval_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "callback/checkpoint-4"))
    assert same(both(again)[0], averaged)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [12, 6])
def test_the_best_model_is_the_average_that_was_evaluated(stop, trainer):
    """Stopped at step 6, the optimizer has the fast weights when the best are loaded."""
    from hf_trainer import StopAfter

    from normball.transformers import AverageWeights

    run = trainer("run", AverageWeights(), StopAfter(stop), load_best_model_at_end=True)
    run.train()
    folder = run.state.best_model_checkpoint
    best = saved(folder)
    assert same(weights(run), best)
    assert run.evaluate()["eval_loss"] == pytest.approx(run.state.best_metric)
    assert same(weights(run), best)
    # These weights are not those of the optimizer's state: it goes on from a checkpoint.
    with pytest.raises(RuntimeError, match="was written to since eval"):
        run.train()
    run.train(resume_from_checkpoint=folder)


@pytest.mark.slow
def test_train_called_twice_goes_on(trainer):
    run = trainer("run")
    run.train()
    start = both(run)[1]
    run.optimizer.eval()
    run.train()
    assert run.optimizer.optimizer.state_dict()["param_groups"][0]["average_steps"] == 24
    assert not same(both(run)[1], start)


def test_a_model_that_the_trainer_makes_is_trained(trainer, tmp_path):
    """The unbroken run, twice by one Trainer and by a second one, and resumed."""
    plain = trainer("plain")
    start = weights(plain)
    plain.train()
    expected = both(plain)
    assert not same(expected[1], start)
    run = trainer("run", init=True)
    for _ in range(2):
        before = run.model
        run.train()
        assert run.model is not before
        assert all(map(same, both(run), expected))
    again = trainer("again", init=True)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-4"))
    assert all(map(same, both(again), expected))


def test_a_search_reaches_the_optimizer(trainer):
    """Each trial's values, as a backend of the Trainer's search sets them, on a new model."""
    run = trainer("run", init=True, save_strategy="no")
    ends = []
    for lr in (0.01, 0.02, 0.01):
        run.args.learning_rate = lr
        run.train()
        assert {group["initial_lr"] for group in run.optimizer.param_groups} == {lr}
        ends.append(both(run)[1])
    assert same(ends[0], ends[2])
    assert not same(ends[0], ends[1])


def test_the_mixin_alone_is_the_documented_call(trainer):
    from transformers import Trainer

    from normball.transformers import TrainerMixin

    class Default(TrainerMixin, Trainer):
        pass

    run = trainer("run", cls=Default, max_steps=2, eval_strategy="no")
    run.train()
    made, expected = (
        run.optimizer.optimizer.param_groups,
        ClippedScion(param_groups(run.model), average=0.1).param_groups,
    )
    assert [group["norm"] for group in made] == [group["norm"] for group in expected]
    assert run.optimizer.state_dict()["param_groups"][0]["average_steps"] == 2
    assert {"dual_norm", "clipped_share", "train_loss"} <= run.state.log_history[-1].keys()
    run.optimizer_cls_and_kwargs, run.optimizer = (ClippedScion, {}), None
    with pytest.raises(ValueError, match="write its settings into build_optimizer"):
        run.train()


def test_a_second_threshold_is_told_of_where_there_is_a_first_one(trainer):
    from transformers import Trainer

    from normball.transformers import TrainerMixin

    class Unclipped(TrainerMixin, Trainer):
        def build_optimizer(self, model):
            return Scion(param_groups(model), 0.01)

    def told(**settings):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer("run", max_steps=2, eval_strategy="no", save_strategy="no", **settings).train()
        return [str(w.message) for w in seen if "max_grad_norm" in str(w.message)]

    (message,) = told(max_grad_norm=1.0)
    assert "max_grad_norm=1.0" in message
    assert "set max_grad_norm=0" in message
    assert told() == []
    assert told(cls=Unclipped, max_grad_norm=1.0) == []
