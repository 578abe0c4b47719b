"""LightBench 0.1.1 on a CPU, cut: `python -m benchmarks.lightbench ROWS [METHODS]`.

Needs the package lightbench. It builds every test. Its own search is replaced by four settings of
1,000 steps each, the recommended one and three random ones, the same for all methods in units of
what is recommended. A difficulty is tried once the one before is won. Finished tries in ROWS are
kept.
"""

import copy
import importlib
import json
import math
import os
import random
import sys
import time
import types
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

STEPS, SETTINGS, EVERY, CAP = 1000, 4, 64, 60.0
DIFFICULTIES = ["trivial", "easy", "medium", "hard", "extreme", "nightmare"]
TESTS = [
    "beale",
    "rosenbrock",
    "rastrigin",
    "quadratic_varying_scale",
    "quadratic_varying_target",
    "noisy_matmul",
    "xor_sequence",
    "xor_digit",
    "xor_spot",
    "xor_sequence_rnn",
    "xor_digit_rnn",
    "xor_spot_rnn",
    "saddle_point",
    "discontinuous_gradient",
    "wide_linear",
    "minimax",
    "plateau_navigation",
    "scale_invariant",
    "momentum_utilization",
    "batch_size_scaling",
    "sparse_gradient",
    "layer_wise_scale",
    "parameter_scale",
    "gradient_delay",
    "adversarial_gradient",
    "dynamic_landscape",
    "multi_objective_pareto",
    "class_imbalance_rare",
    "memory_constrained",
    "transfer_domain_shift",
    "plasticity_summod",
    "plasticity_weighted_summod",
    "generalization_summod",
    "generalization_weighted_summod",
    "sparse_parameters",
    "quadratic_flip",
    "quadratic_outliers",
    "quadratic_sparse",
    "quadratic_quantized_gradient",
    "absolute_varying_scale",
    "quadratic_quantization_aware_training",
    "vanishing_gradient",
    "ill_conditioned",
    "ill_conditioned_mismatched",
    "gradient_noise_scale_instantaneous_brown",
    "gradient_noise_scale_temporal_brown",
    "gradient_noise_scale_white",
    "gradient_noise_scale_heavy_tailed",
    "constrained_optimization_relu",
    "constrained_optimization_log",
    "non_markovian",
]

# The package's own search is not used.
sys.modules["heavyball.helpers"] = types.SimpleNamespace(AutoSampler=None)
# The package speaks to a GPU throughout.
torch.Tensor.cuda = lambda self, *a, **k: self
nn.Module.cuda = lambda self, *a, **k: self
torch.cuda.synchronize = torch.cuda.empty_cache = lambda *a, **k: None
torch.cuda.memory_allocated = torch.cuda.max_memory_allocated = lambda *a, **k: 0
torch.cuda.device = lambda *a, **k: nullcontext()
torch.cuda.manual_seed = torch.cuda.manual_seed_all = lambda *a, **k: None


class OnCPU(TorchFunctionMode):
    def __torch_function__(self, func, _, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        args = tuple("cpu" if isinstance(a, str) and a.startswith("cuda") else a for a in args)
        return func(*args, **kwargs)


OnCPU().__enter__()
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from normball import ClippedScion, Scion, param_groups  # noqa: E402
from normball.lab.arena.methods import MuonAdamW  # noqa: E402
from normball.norms import RMS, Spectral  # noqa: E402


def groups(model):
    """`param_groups`, told what raw tensors are: matrices, or else vectors."""
    raw = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, p in module.named_parameters(recurse=False):
            if p.ndim != 1:
                norm = Spectral() if p.ndim == 2 else RMS()
                raw[f"{path}.{name}" if path else name] = {"norm": norm}
    return param_groups(model, overrides=raw or None)


def adamw(model, lr, a, b):
    return torch.optim.AdamW(model.parameters(), lr=4e-3 * lr, betas=(1 - a, 1 - b), weight_decay=0)


def muon(model, lr, a, b):
    made = MuonAdamW(model, 8e-3 * lr)
    for group in made.param_groups:
        group["weight_decay"] = 0
        if "betas" in group:
            group["betas"] = (1 - a, 1 - b)
        if "momentum" in group:
            group["momentum"] = 1 - a
    return made


METHODS = {
    "adamw": adamw,
    "muon": muon,
    "scion": lambda m, lr, a, b: Scion(groups(m), lr=lr / 64, alpha=a),
    "clipped": lambda m, lr, a, b: ClippedScion(groups(m), lr=lr / 64, alpha=a),
    "recipe": lambda m, lr, a, b: ClippedScion(groups(m), lr=lr / 64, alpha=a, average=0.1),
    "untuned": lambda m, lr, a, b: ClippedScion(groups(m), average=0.1),
}


def seed(n):
    torch.manual_seed(n)
    np.random.seed(n)  # noqa: NPY002  (what the package draws from)
    random.seed(n)


def settings(n):
    chance = random.Random(n)
    uniform = [[chance.random() for _ in range(3)] for _ in range(SETTINGS)]
    # The first one is what is recommended.
    drawn = [(10 ** (4 * u - 2), 0.01 * 50**v, 0.001 * 100**w) for u, v, w in uniform[1:]]
    return [(1.0, 0.1, 0.05), *drawn]


class Built(Exception):
    """Carries out of a test what it would train."""


def build(test, difficulty):
    """What a test gives to the package's own `trial`, None where it has no such difficulty."""
    from lightbench.utils import SkipConfig

    module = importlib.import_module(f"lightbench.{test}")

    def catch(model, data, loss_fn, win, *args, **kwargs):
        raise Built(model, data, loss_fn, win)

    module.trial = catch
    configs = getattr(module, "configs", None)
    if configs is not None and difficulty not in configs:
        return None
    for dtype in (["float32"], "float32"):  # some tests take a list, others a name
        seed(0)
        try:
            module.main(
                dtype=dtype,
                steps=STEPS,
                weight_decay=0,
                opt=["AdamW"],
                trials=1,
                win_condition_multiplier=1.0,
                config=difficulty,
            )
        except SkipConfig:
            return None
        except Built as built:
            return built.args
        except TypeError:
            if dtype == "float32":
                raise
        else:
            break
    raise RuntimeError("the test did not call trial")


def attempt(parts, make, drawn):
    """Steps until won, None if it was not."""
    model, data, loss_fn, win = parts
    model = copy.deepcopy(model).float()
    try:
        optimizer = make(model, *drawn)
    except NotImplementedError:
        return None
    seed(1)

    def loss():
        inp, target = data() if data is not None else (None, None)
        out = model() if inp is None else model(inp)
        return out if loss_fn is None else loss_fn(out, target)

    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        value = loss()
        number = float(value)
        if not math.isfinite(number):
            return None
        if bool(win(model, number)[0]):
            return step
        value.backward()
        optimizer.step()
        if step % EVERY == 0 and hasattr(optimizer, "eval"):
            optimizer.eval()
            with torch.no_grad():
                won = bool(win(model, float(loss()))[0])
            optimizer.train()
            if won:
                return step
    return None


def main(out, names):
    rows = []
    if os.path.exists(out):
        with open(out) as file:
            rows = [json.loads(line) for line in file]
    done = {(r["test"], r["difficulty"], r["method"]): r["won"] for r in rows}
    for test in TESTS:
        for name in names:
            for difficulty in DIFFICULTIES:
                if (test, difficulty, name) in done:
                    if done[test, difficulty, name]:
                        continue
                    break
                row = {"test": test, "difficulty": difficulty, "method": name}
                started = time.process_time()
                try:
                    parts = build(test, difficulty)
                    if parts is None:
                        continue
                    seen, steps = 0, None
                    for drawn in settings(7)[: 1 if name == "untuned" else SETTINGS]:
                        seen += 1
                        steps = attempt(parts, METHODS[name], drawn)
                        if steps or time.process_time() - started > CAP:
                            break
                    row |= {"won": steps is not None, "steps": steps, "settings": seen}
                except Exception as error:  # a test that does not run here is no loss of a method
                    row |= {"won": None, "error": f"{type(error).__name__}: {error}"[:200]}
                row["seconds"] = round(time.process_time() - started, 2)
                with open(out, "a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
                if not row["won"]:
                    break


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2].split(",") if len(sys.argv) > 2 else list(METHODS))
