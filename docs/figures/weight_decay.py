"""Draw the pictures of docs/weight-decay.md: `make figures`."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from normball import ClippedScion, Scion
from normball._style import INK, VECTOR, readable
from normball.norms import Euclidean, Sign

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6b7280"


def path(make: Callable[[Tensor], torch.optim.Optimizer], steps: int) -> Tensor:
    """Return the iterates of an optimizer on a quadratic whose minimum lies outside the ball."""
    x = nn.Parameter(torch.tensor([-0.6, -0.5], dtype=torch.float64))
    target = torch.tensor([1.6, 0.9], dtype=torch.float64)
    stretch = torch.tensor([1.0, 3.0], dtype=torch.float64)
    optimizer = make(x)
    points = [x.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        (stretch * (x - target).square()).sum().backward()
        optimizer.step()
        points.append(x.detach().clone())
    return torch.stack(points)


def draw_balls() -> None:
    """Free and constrained runs, in two norms."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.4), layout="constrained")
    for ax, norm, name in zip(
        axes,
        (Euclidean(), Sign(normalized=False)),
        ("Euclidean ball", "max-norm ball"),
        strict=True,
    ):

        def group(x: Tensor, norm: Euclidean | Sign = norm) -> list[dict[str, object]]:
            return [{"params": [x], "norm": norm, "radius": 1.0}]

        runs = {
            "free, clipped": (lambda x: ClippedScion(group(x), 0.15, rho=4.0, alpha=1.0), BLUE),
            "constrained, no clipping": (
                lambda x: Scion(group(x), 0.15, alpha=1.0, constrained=True), GREY,
            ),
            "constrained, clipped (short step)": (
                lambda x: ClippedScion(group(x), 0.3, rho=6.0, alpha=1.0, constrained=True), ORANGE,
            ),
        }  # fmt: skip
        if isinstance(norm, Euclidean):
            edge = plt.Circle((0, 0), 1, color=BLUE, alpha=0.15, linewidth=0, zorder=0)
        else:
            edge = plt.Rectangle((-1, -1), 2, 2, color=BLUE, alpha=0.15, linewidth=0, zorder=0)
        ax.add_patch(edge)
        for label, (make, colour) in runs.items():
            points = path(make, 60)
            ax.plot(points[:, 0], points[:, 1], ".-", ms=4, lw=1, color=colour, label=label)
        ax.plot(1.6, 0.9, "*", ms=12, color=GREEN, label="minimum of the loss")
        ax.set(title=name, xlim=(-1.3, 1.9), ylim=(-1.3, 1.5), aspect="equal")
    axes[0].legend(fontsize=10, loc="lower right")
    readable(figure).savefig(HERE / "balls.svg", metadata={"Date": None})


def run(options: dict[str, object], steps: int, lr: float) -> tuple[list[float], list[float]]:
    """Fit a noisy linear regression; return the weights' norm over the radius, and the decay."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(50, generator=generator, dtype=torch.float64)
    truth *= 3.0 * math.sqrt(50) / truth.norm()
    w = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    group = [{"params": [w], "norm": Euclidean(), "radius": math.sqrt(50)}]
    optimizer = (ClippedScion if "rho" in options else Scion)(group, lr, **options)
    sizes, decays = [], []
    for _ in range(steps):
        a = torch.randn(64, 50, generator=generator, dtype=torch.float64)
        noise = 3 * torch.randn(64, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (a @ (w - truth) - noise).square().mean().mul(0.5).backward()
        optimizer.step()
        sizes.append(float(w.detach().norm()) / math.sqrt(50))
        decays.append(lr * float(optimizer.metrics()["step_factor"]))
    return sizes, decays


def draw_decay() -> None:
    """The size of the weights, and the decay that each rho gives, over a run."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    free, _ = run({"rho": 200.0}, 600, 0.02)
    left.plot(free, color=BLUE, label="free, rho = 200")
    constrained: tuple[tuple[float | None, str], ...] = (
        (None, GREY), (30.0, "#f0b27a"), (300.0, ORANGE), (3000.0, "#a0522d"),
    )  # fmt: skip
    for rho, colour in constrained:
        options: dict[str, object] = {"constrained": True} | ({"rho": rho} if rho else {})
        sizes, decays = run(options, 600, 0.02)
        name = f"rho = {rho:g}" if rho else "no clipping"
        left.plot(sizes, color=colour, label=f"constrained, {name}")
        right.plot(decays, color=colour)
    left.axhline(1, color=INK, lw=0.8, ls=":")
    left.set(xlabel="step", ylabel="||w|| / radius", ylim=(0, None), title="size of the weights")
    right.set(xlabel="step", yscale="log", title="decay of one step, lr x step factor")
    figure.legend(loc="outside lower center", ncols=3, fontsize=10)
    readable(figure).savefig(HERE / "decay.svg", metadata={"Date": None})


def draw_adamw() -> None:
    """AdamW and its translation, fed the same noise."""
    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    lr, decay, n, steps = 0.01, 0.1, 400, 3000
    start = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = 3 * start - 1.5
    sign = Sign(normalized=False)
    # RMS of Adam's update on noise: that of an average with beta_1 = 0.9.
    update = math.sqrt((1 - 0.9) / (1 + 0.9))

    def constrained(w: Tensor, radius: float) -> Scion:
        groups = [{"params": [w], "norm": sign, "radius": radius}]
        return Scion(groups, lr * decay, constrained=True)

    weights = [nn.Parameter(start.clone()) for _ in range(4)]
    runs = {
        "Scion, free, lr 0.01": (BLUE, Scion([{"params": [weights[0]], "norm": sign}], lr)),
        "Scion, constrained, lr 0.001, radius 10": (ORANGE, constrained(weights[1], 1 / decay)),
        "AdamW, lr 0.01, weight decay 0.1": (
            GREEN, torch.optim.AdamW([weights[2]], lr, weight_decay=decay),
        ),
        "Scion, constrained, lr 0.001, radius 2.3": (
            "#f0b27a", constrained(weights[3], update / decay),
        ),
    }  # fmt: skip
    curves: list[list[float]] = [[] for _ in weights]
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        gradient = torch.randn(n, dtype=torch.float64, generator=generator)
        for w, (_, optimizer), curve in zip(weights, runs.values(), curves, strict=True):
            w.grad = gradient.clone()
            optimizer.step()
            curve.append(float(w.detach().square().mean().sqrt()))
    for curve, (name, (colour, _)) in zip(curves, runs.items(), strict=True):
        ax.plot(curve, color=colour, label=name)
    ax.set(xlabel="step, on pure noise", ylabel="RMS of the weights", ylim=(0, None))
    ax.legend(fontsize=10)
    readable(figure).savefig(HERE / "adamw.svg", metadata={"Date": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    matplotlib.rcParams.update(VECTOR)
    warnings.simplefilter("error")
    draw_balls()
    draw_decay()
    draw_adamw()
