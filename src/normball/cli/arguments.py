"""The arguments and options that are not settings of runs, each with its help."""

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
Optimizer = Annotated[
    str,
    _text(
        "NAME", "default, adam, scion, clipped-scion, clipped-scion-auto, adamw, muon, sgd-clip."
    ),
]
NormBallOptimizer = Annotated[
    str, _text("NAME", "One with norms: default, scion, clipped-scion or clipped-scion-auto.")
]
Jobs = Annotated[str | None, _text("N", "Processes at a time; by default one for each core.")]
EngineName = Annotated[str, _text("NAME", "local, or ray: at RAY_ADDRESS, else on this machine.")]
RunFolderPath = Annotated[Path, _text("DIR", "Folder for the rows, the figure and the report.")]
RowFolderPath = Annotated[
    Path | None, _text("DIR", "Folder for checkpoints and the finished run's row.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint in --out, if any.")
]
Every = Annotated[str, _text("K", "Measure once in so many steps.")]
SmoothnessFolder = Annotated[
    Path | None, _text("DIR", "Folder for the picture and the measurements.")
]
CurveFolder = Annotated[Path | None, _text("DIR", "Folder for the picture.")]
Iterations = Annotated[str, _text("N", "Steps of every run, at least 100.")]
Budget = Annotated[str | None, _text("TIME", "Begin no run after 90s, 60m or 3h of this sitting.")]
ArenaFolder = Annotated[Path, _text("DIR", "Folder for the rules, the runs and the page.")]
RatesFolder = Annotated[Path, _text("DIR", "Folder for the table and the figures.")]
TensorBoard = Annotated[Path | None, _text("DIR", "Folder for TensorBoard's scalars.")]
FigureName = Annotated[str, typer.Argument(metavar="FIGURE", help="fig1 to fig11.")]
Scale = Annotated[str, _text("NAME", "cpu: minutes; gpu: a GPU's hours; paper: as published.")]
UntilDecided = Annotated[
    bool,
    typer.Option("--until-decided", help="Add fresh seeds in pairs until all claims are decided."),
]
ResultsFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")]
PagePath = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="The page; DIR/index.html by default.")
]
DataName = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="fashion-mnist, cifar10, shakespeare, gpt2-tokens, pydataset."
    ),
]
