"""Averaged weights in Hugging Face's Trainer, which calls the optimizer's train() and eval()."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from normball import ClippedScion, param_groups

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the Trainer's own


@pytest.fixture
def trainer(tmp_path):
    """Make a Trainer of 12 steps on 40 pieces, which evaluates and saves every 4."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    made = torch.Generator().manual_seed(0)
    pieces = torch.randint(64, (40, 16), generator=made).tolist()
    data = [{"input_ids": piece, "labels": piece} for piece in pieces]

    def make(name, *callbacks, **settings):
        set_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, bos_token_id=1, eos_token_id=2,
            )
        )  # fmt: skip
        usual = {
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
        options = {"params": param_groups(model), "lr": 0.01, "rho": 1.0, "nesterov": True}
        return Trainer(
            model=model,
            args=TrainingArguments(output_dir=str(tmp_path / name), **usual | settings),
            train_dataset=data,
            eval_dataset=data[:16],
            optimizer_cls_and_kwargs=(ClippedScion, options | {"average": 1.0}),
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


def test_a_model_saved_after_an_evaluation_is_the_average(trainer, tmp_path):
    run = trainer("run")
    run.train()
    run.save_model(str(tmp_path / "final"))
    averaged, _ = both(run)
    assert same(averaged, saved(tmp_path / "run/checkpoint-12"))
    assert same(averaged, saved(tmp_path / "final"))


def test_without_evaluation_the_callback_saves_the_average(trainer, tmp_path):
    from hf_trainer import AverageWeights

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


@pytest.mark.parametrize("stop", [12, 6])
def test_the_best_model_is_the_average_that_was_evaluated(stop, trainer):
    """Stopped at step 6, the optimizer has the fast weights when the best are loaded."""
    from hf_trainer import AverageWeights, StopAfter

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


def test_train_called_twice_goes_on(trainer):
    run = trainer("run")
    run.train()
    start = both(run)[1]
    run.optimizer.eval()
    run.train()
    assert run.optimizer.optimizer.state_dict()["param_groups"][0]["average_steps"] == 24
    assert not same(both(run)[1], start)
