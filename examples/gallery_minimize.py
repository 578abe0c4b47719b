# %% [markdown]
"""
# A norm of your own

A norm is two methods: its value, and the point of its unit ball that lies furthest down a slope.
`normball.minimize` then steps in it. Here the norm is an ellipse that is as narrow as the valley
of the function.
"""

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import torch
from drawing import BLUE, GREEN, INK, ORANGE, save

from normball import minimize
from normball.norms import Euclidean, Norm


@dataclass(frozen=True)
class Ellipse(Norm):
    """The Euclidean norm after each coordinate is divided by its half axis."""

    axes: tuple[float, ...]

    def norm(self, w):
        """Return the norm of a vector."""
        return (w / w.new_tensor(self.axes)).norm()

    def lmo_and_dual(self, d):
        """Return the minimiser of `<d, v>` over the unit ball, and the dual norm of `d`."""
        axes = d.new_tensor(self.axes)
        dual = (axes * d).norm()
        return -(axes**2) * d / dual.clamp(min=1e-300), dual


# %% [markdown]
# The function is steep far away, where it grows like an exponential, and curves about 400
# times as much along `y` as along `x`. No step size is given. Beside it runs BFGS of SciPy with
# the same start.


# %%
def fun(z):
    """Return cosh(x) + cosh(20 y) + x / 2."""
    return torch.cosh(z[0]) + torch.cosh(20 * z[1]) + 0.5 * z[0]


start = torch.tensor([4.0, 0.3], dtype=torch.float64)
paths, values = {}, {}
for name, norm in {"Euclidean norm": Euclidean(), "own norm": Ellipse((1.0, 0.05))}.items():
    points = []
    result = minimize(
        fun,
        start,
        method="ggnc",
        norm=norm,
        gamma="backtracking",
        callback=lambda iterate, points=points: points.append(iterate.x.clone()),
    )
    paths[name], values[name] = torch.stack(points), result.history.fun
    print(f"{name}: {result.fun:.9f} after {result.nit} steps, {result.nfev} evaluations")


def with_gradient(z):
    """Return the value and the gradient, as SciPy takes them."""
    z = torch.tensor(z, requires_grad=True)
    value = fun(z)
    value.backward()
    return value.item(), z.grad.numpy()


points = [start.numpy()]
other = scipy.optimize.minimize(
    with_gradient, start.numpy(), jac=True, callback=lambda z: points.append(z.copy())
)
paths["SciPy's BFGS"] = torch.tensor(np.array(points))
values["SciPy's BFGS"] = torch.stack([fun(point) for point in paths["SciPy's BFGS"]])
print(f"SciPy's BFGS: {other.fun:.9f} after {other.nit} steps, {other.nfev} evaluations")

# %%
figure, (left, right) = plt.subplots(1, 2)
x, y = np.meshgrid(np.linspace(-2, 4.5, 60), np.linspace(-0.35, 0.35, 60))
height = np.log(fun(torch.tensor(np.stack([x, y]))).numpy())
left.contour(x, y, height, levels=12, colors=INK, alpha=0.4, linewidths=0.8)
low = min(value.min() for value in values.values())
for (name, path), colour in zip(paths.items(), (BLUE, ORANGE, GREEN), strict=True):
    left.plot(*path.T, ".-", color=colour, linewidth=1, label=name)
    right.loglog(range(1, len(path) + 1), values[name][: len(path)] - low, color=colour)
left.set(title="the ways to the minimum", xlabel="x", ylabel="y", ylim=(-0.35, 0.35))
right.set(title="above the minimum", xlabel="iterate", ylim=(1e-9, None))
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
save(figure, "gallery_minimize")
