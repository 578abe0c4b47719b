# %% [markdown]
"""
# Hugging Face's Trainer

`TrainerMixin` gives a Trainer an optimizer that belongs to its model, also with `model_init`, and
logs what the threshold acts on. `AverageWeights` saves the averaged weights.
"""

# %%
import tempfile
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
from drawing import BLUE, ORANGE, save
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from normball.transformers import AverageWeights, TrainerMixin


class ClippedTrainer(TrainerMixin, Trainer):
    """A Trainer with `ClippedScion(param_groups(model), average=0.1)`."""


def model():
    """Return a small Llama over bytes."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


# %% [markdown]
# The text is the language reference that comes with Python. The learning rate stays constant,
# because the average stands in for a decay, and the Trainer's own
# clipping is off, because the threshold is inside the optimizer.

# %%
rows = torch.tensor(list("\n".join(topics.values()).encode())).unfold(0, 64, 64)
text = [{"input_ids": row, "labels": row} for row in rows]
held_out, training = text[::20], [row for i, row in enumerate(text) if i % 20]
with tempfile.TemporaryDirectory() as folder:
    trainer = ClippedTrainer(
        model_init=model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=400,
            per_device_train_batch_size=16,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            eval_strategy="steps",
            eval_steps=50,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=training,
        eval_dataset=held_out,
        callbacks=[AverageWeights()],
    )
    trainer.train()
history = trainer.state.log_history
trained = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
tested = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
duals = [(entry["step"], entry["dual_norm"]) for entry in history if "dual_norm" in entry]
for step, loss in tested:
    print(f"step {step}: held-out loss {loss:.3f} nats per byte")

# %%
figure, (left, right) = plt.subplots(1, 2)
left.plot(*zip(*trained, strict=True), color=BLUE, linewidth=1, label="batches")
left.plot(*zip(*tested, strict=True), "o-", color=ORANGE, label="held out, averaged")
left.set(title="loss in the Trainer's log", xlabel="step", ylabel="nats per byte")
left.legend()
right.plot(*zip(*duals, strict=True), color=BLUE)
right.set(title="dual norm in the log", xlabel="step", ylim=(0, None))
save(figure, "gallery_trainer")
