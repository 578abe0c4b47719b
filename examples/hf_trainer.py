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
)

from normball import ClippedScion, param_groups
from normball.transformers import AverageWeights, TrainerMixin


class ClippedTrainer(TrainerMixin, Trainer):
    """A Trainer that builds the optimizer from the model that it trains."""

    def build_optimizer(self, model):
        """Return the optimizer, and print which parameter has which norm."""
        plan = param_groups(model)
        print(plan)
        return ClippedScion(plan, average=0.1)


def model():
    """Return the Llama with new weights; the Trainer seeds them."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


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

    text = Windows(options.text)
    held_out = range(0, len(text), 10)
    trainer = ClippedTrainer(
        model_init=model,
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
        callbacks=[AverageWeights()],
    )
    if options.stop_after is not None:
        trainer.add_callback(StopAfter(options.stop_after))
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model(str(options.out / "final"))


if __name__ == "__main__":
    main()
