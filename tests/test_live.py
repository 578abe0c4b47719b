"""The view of a plain loop: what it says is what the optimizer saw."""

import io
import math
import re

import pytest
import torch
from rich.console import Console

from normball import ClippedScion, param_groups
from normball.live import Live, spark


def train(terminal: bool, steps: int = 40, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    optimizer = ClippedScion(param_groups(model), **{"lr": 0.05, "rho": 2.0} | options)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False)
    with Live(optimizer, total=steps, console=console) as live:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 5)).square().mean()
            loss.backward()
            optimizer.step()
            live.step(loss.detach())
    return text.getvalue(), optimizer, float(loss.detach()), live


def test_without_a_terminal_ten_lines_are_printed() -> None:
    text, optimizer, loss, _ = train(terminal=False)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines] == [f"{n}/40" for n in range(4, 41, 4)]
    seen = optimizer.metrics()
    last = lines[-1]
    assert f"loss {loss:.4g}" in last
    assert f"dual norm {float(seen['dual_norm']):.4g}" in last
    assert f"clipped share {100 * float(seen['clipped_share']):.0f} %" in last
    assert "\x1b" not in text


def test_on_a_terminal_the_picture_has_bar_threshold_and_course() -> None:
    text, _, _, live = train(terminal=True)
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(live._draw())
    drawn = console.file.getvalue()
    assert "100 %" in drawn
    assert "of rho 2" in drawn
    assert re.search("[▁▂▃▄▅▆▇█]", drawn)
    assert "step 40/40" in text


def test_what_was_measured_is_shown() -> None:
    text, optimizer, _, _ = train(terminal=False, rho="auto")
    seen = {name: float(value) for name, value in optimizer.metrics().items() if value.ndim == 0}
    last = text.splitlines()[-1]
    limits = f"{seen['shortest_step']:.3g} to {seen['longest_step']:.3g}"
    assert f"step length {0.05 * seen['step_factor']:.3g} of {limits}" in last
    mean = f"mean {seen['mean_curvature']:.4g}, swing {seen['swing']:.3g}"
    assert f"curvature {seen['curvature']:.4g}, {mean}" in last


@pytest.mark.filterwarnings("ignore:.*outside its ball")
def test_a_constrained_run_shows_its_gap() -> None:
    text, _, _, _ = train(terminal=False, constrained=True)
    assert "gap" in text


def test_the_course_is_logarithmic() -> None:
    assert spark([1.0, 10.0, 1e7]) == "▁▂█"
    assert spark([1.0, 1.0]) == "▁▁"
    assert spark([0.0, math.nan, math.inf]) == "▁▁▁"
    assert spark([]) == ""


def test_a_view_of_something_else_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(TypeError, match="Adam has no dual norm"):
        Live(torch.optim.Adam([weight]), total=3)
    good = ClippedScion(param_groups(torch.nn.Linear(3, 3)), lr=0.1, rho=1.0)
    for total in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="total="):
            Live(good, total=total)
