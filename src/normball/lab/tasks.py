"""What can be trained: each task ties data, a network and default settings together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from normball.lab.data import Dataset, load_digits
from normball.lab.errors import unknown
from normball.lab.models import small_cnn


def powers_of_two(low: int, high: int) -> tuple[float, ...]:
    """``2^low, 2^(low+1), ..., 2^high``.

    Args:
        low: the smallest exponent.
        high: the largest exponent, included.
    """
    return tuple(2.0**exponent for exponent in range(low, high + 1))


@dataclass(frozen=True)
class ScionSettings:
    """What the Scions need on a task, in one of their two forms.

    Attributes:
        lr: step size for a single run.
        alpha: weight of the new gradient in the momentum.
        rho: clipping threshold of Clipped Scion.
        input_radius: radius of the first layer's norm ball.
        radius: radius of the norm balls of the layers in between, and of the biases.
        output_radius: radius of the last layer's norm ball.
    """

    lr: float
    alpha: float
    rho: float
    input_radius: float
    radius: float
    output_radius: float


@dataclass(frozen=True)
class Task:
    """A data set, a network for it, and the settings one gets without asking.

    Attributes:
        name: the name on the command line.
        title: the name in a report.
        about_data: one sentence on the data, its split and its scaling.
        about_model: one sentence on the network and its initialisation.
        train_size: number of training images.
        load: returns the data.
        model: builds the network, drawing its weights from torch's global generator.
        epochs: passes over the training data.
        batch_size: images a step.
        adam_lr: Adam's step size for a single run.
        free: settings of the unconstrained Scions, the ones that a comparison uses.
        constrained: settings of the constrained Scions.
        grid: optimizer name to the step sizes a comparison tries, ascending.
    """

    name: str
    title: str
    about_data: str
    about_model: str
    train_size: int
    load: Callable[[], Dataset]
    model: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    adam_lr: float
    free: ScionSettings
    constrained: ScionSettings
    grid: Mapping[str, tuple[float, ...]]


_SCION_GRID = powers_of_two(-9, -2)

DIGITS = Task(
    name="digits",
    title="scikit-learn digits",
    about_data=(
        "1,797 grey images of 8x8 handwritten digits in 10 classes, pixels scaled to [0, 1]; "
        "1,437 for training and 360 for testing, one fixed stratified split."
    ),
    about_model=(
        "Two 3x3 convolutions (16 and 32 channels) with GELU, a 2x2 max pooling and one linear "
        "layer; PyTorch's default initialisation, no normalisation layers, no augmentation."
    ),
    train_size=1437,
    load=load_digits,
    model=small_cnn,
    epochs=25,
    batch_size=128,
    adam_lr=2.0**-6,
    free=ScionSettings(
        lr=2.0**-5, alpha=0.5, rho=16.0, input_radius=1.0, radius=5.0, output_radius=200.0
    ),
    # A constrained run needs room for the weights: with the radii above it stops near 85 %.
    constrained=ScionSettings(
        lr=2.0**-8, alpha=0.5, rho=16.0, input_radius=5.0, radius=25.0, output_radius=2000.0
    ),
    grid=MappingProxyType(
        {"adam": powers_of_two(-9, -2), "scion": _SCION_GRID, "clipped-scion": _SCION_GRID}
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (DIGITS,)})


def find_task(name: str) -> Task:
    """The task of that name.

    Args:
        name: a key of ``TASKS``.

    Raises:
        LabError: if there is none; the message offers the nearest name.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise unknown("task", name, TASKS) from None
