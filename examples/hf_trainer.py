"""A small Llama on text with Hugging Face's Trainer.

    python examples/hf_trainer.py --out runs/hf
    python examples/hf_trainer.py --out runs/hf --resume   # on from the last checkpoint

docs/howto/transformers.md explains the settings.
"""

import argparse
from pathlib import Path

from real_data import Windows
from torch.utils.data import Subset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from normball import ClippedScion, param_groups


class ClippedTrainer(Trainer):
    """A Trainer that logs what the optimizer saw beside the loss, wherever that goes."""

    def log(self, logs, *args, **kwargs):
        """Read the metrics: here, and not in the step, the host waits for the device."""
        seen = getattr(self.optimizer, "optimizer", self.optimizer).metrics()
        seen = {name: float(seen[name]) for name in ("dual_norm", "clipped_share")}
        super().log(logs | seen, *args, **kwargs)


class AverageWeights(TrainerCallback):
    """Saved models, and the one at the end, have the averaged weights.

    The Trainer itself calls `optimizer.eval()` before it evaluates, and `train()` before it goes
    on, but nothing before it saves.
    """

    def on_step_end(self, _, __, control, optimizer, **___):
        """Put the averaged weights into the model where it is saved next."""
        if control.should_save or control.should_training_stop:
            optimizer.eval()

    on_epoch_end = on_step_end


class StopAfter(TrainerCallback):
    """Ends a run early, as a machine that goes away would, for trying `--resume`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, _, state, control, **__):
        """Stop once the step is reached."""
        control.should_training_stop = state.global_step >= self.step


def main() -> None:
    """Train, and save the model to `--out`/final."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="a text file in place of the bundled text")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    options = parser.parse_args()

    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    plan = param_groups(model)
    print(plan)
    text = Windows(options.text)
    held_out = range(0, len(text), 10)
    trainer = ClippedTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.out),
            max_steps=options.steps,
            per_device_train_batch_size=16,
            lr_scheduler_type="constant",  # the average stands in for a decay
            max_grad_norm=0,  # the threshold is inside the optimizer
            save_steps=options.save_every,
            eval_strategy="steps",
            eval_steps=options.save_every,
            load_best_model_at_end=True,
            logging_steps=5,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Subset(text, [i for i in range(len(text)) if i % 10]),
        eval_dataset=Subset(text, held_out),
        optimizer_cls_and_kwargs=(
            ClippedScion,
            {"params": plan, "average": 0.1},
        ),
        callbacks=[AverageWeights()],
    )
    if options.stop_after is not None:
        trainer.add_callback(StopAfter(options.stop_after))
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model(str(options.out / "final"))


if __name__ == "__main__":
    main()
