"""Draw the pictures of docs/concepts.md: `make figures`."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normball import minimize, steps
from normball._style import INK, VECTOR, readable
from normball.norms import L1, Euclidean, Lp, Norm, Sign
from normball.theory import Iterate

HERE = Path(__file__).parent
BLUE, RED, GREY = "#0072b2", "#d55e00", "#8b949e"
GRADIENT = torch.tensor([1.0, 0.45], dtype=torch.float64)


def save(figure: Figure, name: str) -> None:
    """Write a picture beside this file; equal pictures give equal bytes."""
    FigureCanvasAgg(figure)
    readable(figure).savefig(HERE / name, metadata={"Date": None})


def edge(norm: Norm) -> np.ndarray:
    """The unit sphere of a norm: every direction divided by its norm."""
    angles = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    return torch.stack([p / norm.norm(p) for p in points]).numpy()


def balls() -> None:
    """The minimiser of a linear function over balls: where each norm steps to."""
    norms = {"Euclidean": Euclidean(), "Lp(4)": Lp(4.0), "Sign": Sign(normalized=False), "L1": L1()}
    figure = Figure(figsize=(8, 2.7), layout="constrained")
    for axes, (name, norm) in zip(figure.subplots(1, 4), norms.items(), strict=True):
        sphere = edge(norm)
        axes.fill(*sphere.T, color=BLUE, alpha=0.12)
        axes.plot(*sphere.T, color=BLUE, linewidth=1)
        v = norm.lmo(GRADIENT).numpy()
        axes.annotate("", v, (0, 0), arrowprops={"arrowstyle": "->", "color": RED, "lw": 2})
        g = GRADIENT.numpy()
        axes.annotate("", g, (0, 0), arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.5})
        normal = np.array([-g[1], g[0]]) / np.linalg.norm(g)
        axes.plot(*np.stack([v - 2 * normal, v + 2 * normal]).T, ":", color=GREY, linewidth=1)
        axes.set(title=name, xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        axes.set_axis_off()
    save(figure, "steps-in-balls.svg")


def lengths() -> None:
    """The length of a step against the dual norm, in the three methods."""
    size = torch.linspace(0, 3, 301, dtype=torch.float64)
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(size, steps.sd(size, 1.0), color=GREY, label="steepest descent")
    axes.plot(size[1:], steps.ucg(size[1:], 1.0), color=RED, linestyle="--", label="norm-ball step")
    axes.plot(size, steps.ggnc(size, 1.0, 1.0), color=BLUE, linewidth=2.5, label="clipped")
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.text(1.03, 2.6, "ρ")
    axes.set(xlabel="dual norm of the gradient, in units of ρ", ylabel="length of the step / lr")
    axes.legend()
    save(figure, "step-lengths.svg")


def paths() -> None:
    """The methods on exp(a x) + exp(-a x) + y^2, from afar, with one step size."""

    def fun(x: torch.Tensor) -> torch.Tensor:
        return torch.cosh(2 * x[0]) + x[1].square()

    start = torch.tensor([2.0, 1.4], dtype=torch.float64)
    runs = {
        "norm-ball steps": ({"method": "ucg", "gamma": 0.45, "rho": 1.0}, RED),
        "clipped": ({"method": "ggnc", "gamma": 0.15, "rho": 3.0}, BLUE),
        "steepest descent, a step that is safe here": ({"method": "sd", "gamma": 0.008}, GREY),
    }
    x, y = np.meshgrid(np.linspace(-1, 2.3, 200), np.linspace(-0.8, 1.8, 160))
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.contour(
        x, y, np.log(np.cosh(2 * x) + y**2), levels=12, colors=GREY, alpha=0.4, linewidths=0.8
    )
    for name, (options, colour) in runs.items():
        points = [start.numpy()]

        def keep(iterate: Iterate, points: list[np.ndarray] = points) -> None:
            points.append(iterate.x.detach().numpy().copy())

        minimize(
            fun,
            start,
            norm=Euclidean(),
            max_iter=25,
            tol=0.0,
            callback=lambda iterate, points=points: points.append(
                iterate.x.detach().numpy().copy()
            ),
            **options,
        )
        axes.plot(*np.stack(points).T, "o-", color=colour, markersize=3, linewidth=1, label=name)
    axes.legend(loc="lower right")
    axes.set_axis_off()
    save(figure, "paths.svg")


if __name__ == "__main__":
    mpl.rcParams.update(VECTOR)
    balls()
    lengths()
    paths()
