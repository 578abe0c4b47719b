"""Every model class of transformers' main tasks, from its default configuration: is it placed?

python results/models/2026-11-24-zoo/survey.py DIR

The models are built on the meta device, without memory. Where a configuration states many equal
layers, four are built. Writes `survey.txt` to DIR.
"""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers.models.auto import modeling_auto

from normball import param_groups

TASKS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION", "CTC",
         "SPEECH_SEQ_2_SEQ", "AUDIO_CLASSIFICATION")  # fmt: skip
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")
PARTS = ("text_config", "vision_config", "audio_config")


def classes() -> Iterator[tuple[str, type, type]]:
    for task in TASKS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING")
        for config in mapping:
            model = mapping[config]
            yield task, config, model[0] if isinstance(model, tuple) else model


def shallow(config):
    for part in (config, *(getattr(config, name, None) for name in PARTS)):
        for name in DEPTHS:
            depth = getattr(part, name, None)
            if isinstance(depth, int) and depth > 8 and not getattr(part, "layer_types", None):
                setattr(part, name, 4)
    return config


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    counts, lines, seen = {}, [], set()
    for task, config, model_class in classes():
        if model_class in seen:
            continue
        seen.add(model_class)
        count = counts.setdefault(task, {"placed": 0, "refused": 0, "not built": 0})
        try:
            with torch.device("meta"):
                model = model_class(shallow(config()))
        except Exception as error:  # missing packages, configurations without defaults
            count["not built"] += 1
            lines.append(f"{model_class.__name__}: not built, {type(error).__name__}")
            continue
        try:
            param_groups(model)
        except ValueError as refusal:
            count["refused"] += 1
            found = [line.strip() for line in str(refusal).splitlines() if ", shape (" in line]
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            lines.append(f"{model_class.__name__}: refused, {found[0]}{more}")
        else:
            count["placed"] += 1
    table = [f"{task}: {count}" for task, count in counts.items()]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    (folder / "survey.txt").write_text("\n".join([versions, *table, "", *lines]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
