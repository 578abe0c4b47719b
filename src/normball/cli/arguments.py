"""The arguments and options of the commands, each with its help."""

from pathlib import Path
from typing import Annotated, Any

import typer


def _text(metavar: str, text: str) -> Any:
    """An option that is read as text: the lab's own messages say what is wrong with a value."""
    return typer.Option(metavar=metavar, help=text)


TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="digits, fashion-mnist, cifar10, shakespeare, shakespeare-gpt2, fineweb, imagenet.",
    ),
]
Epochs = Annotated[str | None, _text("N", "Passes over the training data.")]
BatchSize = Annotated[str | None, _text("N", "Examples a step.")]
Alpha = Annotated[str | None, _text("X", "Weight of the new gradient, in (0, 1]; for the Scions.")]
Rho = Annotated[str | None, _text("X", "Clipping threshold; for clipped-scion and sgd-clip.")]
Step = Annotated[str | None, _text("STEP", "The step size, such as 0.03 or 2^-5.")]
Steps = Annotated[
    str | None, _text("STEPS", "Step sizes, such as 2^-6,2^-5; not Adam's in compare.")
]
AdamSteps = Annotated[str | None, _text("STEPS", "Step sizes of Adam, likewise.")]
Schedule = Annotated[str, _text("NAME", "constant, linear, cosine or trapezoidal.")]
Seed = Annotated[str, _text("N", "Seed of the weights and of the order of the data.")]
Seeds = Annotated[str, _text("SEEDS", "Seeds, with commas.")]
Optimizer = Annotated[
    str, _text("NAME", "adam, scion, clipped-scion, clipped-scion-auto, adamw, muon, sgd-clip.")
]
Optimizers = Annotated[
    str | None, _text("NAMES", "Some of those of train; adam, scion, clipped-scion by default.")
]
Constrained = Annotated[
    bool, typer.Option("--constrained", help="Keep the weights in the norm ball.")
]
Variant = Annotated[str | None, _text("N", "1 or 2: form of the constrained clipped step.")]
Jobs = Annotated[str | None, _text("N", "Processes at a time; by default one for each core.")]
RunFolderPath = Annotated[Path, _text("DIR", "Folder for the rows, the figure and the report.")]
RowFolderPath = Annotated[Path | None, _text("DIR", "Folder that keeps the finished run's row.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint in --out, if any.")
]
Every = Annotated[str, _text("K", "Measure once in so many steps.")]
SmoothnessFolder = Annotated[
    Path | None, _text("DIR", "Folder for the picture and the measurements.")
]
CurveFolder = Annotated[Path | None, _text("DIR", "Folder for the picture.")]
Iterations = Annotated[str, _text("N", "Steps of every run, at least 100.")]
RatesFolder = Annotated[Path, _text("DIR", "Folder for the table and the figures.")]
Rhos = Annotated[str | None, _text("RHOS", "Clipping thresholds, with commas.")]
SweepOptimizers = Annotated[str, _text("NAMES", "Some of those of train, with commas.")]
Warmup = Annotated[str | None, _text("X", "Share of the steps in which the step size grows.")]
WeightDecay = Annotated[str | None, _text("X", "Weight decay; for adamw and muon.")]
Model = Annotated[str | None, _text("NAME", "The network; that of the task by default.")]
Width = Annotated[str | None, _text("X", "Factor on the network's widths.")]
TrainSize = Annotated[str | None, _text("N", "Use so many training images.")]
TestSize = Annotated[str | None, _text("N", "Use so many test images, or windows of text.")]
Accumulate = Annotated[str | None, _text("N", "Parts of a mini-batch, one after the other.")]
Precision = Annotated[str, _text("NAME", "float32, or bfloat16 for autocast.")]
TensorBoard = Annotated[Path | None, _text("DIR", "Folder for TensorBoard's scalars.")]
FigureName = Annotated[str, typer.Argument(metavar="FIGURE", help="fig1 to fig11.")]
Scale = Annotated[str, _text("NAME", "cpu: minutes; gpu: a GPU's hours; paper: as published.")]
ResultsFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")]
PagePath = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="The page; DIR/index.html by default.")
]
DataName = Annotated[
    str, typer.Argument(metavar="DATA", help="fashion-mnist, shakespeare or gpt2-tokens.")
]
