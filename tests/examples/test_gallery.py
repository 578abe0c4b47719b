"""Every example of the gallery shows what its page says, draws it, and is a notebook too."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("gallery_*.py"))
TEXT = "{http://www.w3.org/2000/svg}text"


def first_training(printed):
    # 1.1 % are wrong at the end; of 360 digits one is 0.3 %.
    assert numbers(r"accuracy ([\d.]+)", printed)[-1] > 0.95
    losses = numbers(r"loss ([\d.]+)", printed)
    assert len(losses) == 12
    assert losses[-1] < 0.05 * losses[0]


def vision_transformer(printed):
    accuracies = numbers(r"accuracy ([\d.]+)", printed)
    assert accuracies[0] < 0.3
    assert accuracies[-1] > 0.92
    assert "Blocks(Spectral(), 3)" in printed


def gpt(printed):
    losses = numbers(r"held-out loss ([\d.]+)", printed)
    single, pairs = numbers(r"(?:frequency|bytes) ([\d.]+)", printed)
    assert losses[-1] < 0.75 * pairs < pairs < single < losses[0]
    assert len(printed.split("sample: ")[1]) > 150


def lora(printed):
    (_, before), (prose, after) = (
        map(float, pair) for pair in re.findall(r"prose ([\d.]+), code ([\d.]+)", printed)
    )
    assert after < 0.8 * before
    assert prose < 2.6  # below what the frequencies of letters give: the adapter forgets little
    trained, whole = map(int, re.search(r"(\d+) of (\d+) parameters", printed).groups())
    assert trained < 0.06 * whole


def minimize(printed):
    found = dict(re.findall(r"^(.+): ([\d.]+) after", printed, re.M))
    own, scipy = float(found["own norm"]), float(found["SciPy's BFGS"])
    # Both stop at a gradient of about 1e-5 or less, and the curvature is at least 1.
    assert own == pytest.approx(scipy, abs=1e-8)
    assert own <= float(found["Euclidean norm"]) + 1e-8
    steps = dict(re.findall(r"^(.+): .* after (\d+) steps", printed, re.M))
    assert int(steps["own norm"]) < 0.2 * int(steps["Euclidean norm"])


def smoothness(printed):
    losses = numbers(r"loss ([\d.e-]+)", printed)
    assert losses[-1] < 0.01 * losses[0]
    (l0, l1, correlation) = map(
        float, re.search(r"L0 ([\d.]+), L1 ([\d.]+), rank correlation ([\d.]+)", printed).groups()
    )
    assert correlation > 0.5
    assert l1 > 10
    assert l0 < l1


def constrained(printed):
    assert min(numbers(r"accuracy ([\d.]+)", printed)) > 0.95
    (start, free), (same, ball) = (
        map(float, pair) for pair in re.findall(r"([\d.]+) before, ([\d.]+) after", printed)
    )
    assert start == same == pytest.approx(5, abs=0.05)  # the factor is orthogonal to 1 %
    assert free > 1.2 * start
    assert ball <= start + 0.05


def average(printed):
    fast, averaged = numbers(r"loss ([\d.]+)", printed)
    assert averaged < 0.95 * fast
    assert averaged < 0.7  # a fifth of the labels at random, ten classes


def trainer(printed):
    losses = numbers(r"held-out loss ([\d.]+)", printed)
    assert len(losses) == 8
    # What the frequencies of pairs of bytes give is 2.45.
    assert losses[-1] < 1.8 < losses[0]


def lightning(printed):
    first, last = numbers(r"loss ([\d.]+)", printed)
    assert last < 0.05 * first
    assert numbers(r"accuracy ([\d.]+)", printed)[0] > 0.95
    clipped, steps = map(int, re.search(r"longest: (\d+) of (\d+)", printed).groups())
    assert 0 < clipped < steps == 264


def many_ranks(printed):
    first, last = map(float, re.search(r"loss ([\d.]+) .* ([\d.]+) at the last", printed).groups())
    assert last < 0.05 * first
    (loss,) = numbers(r"difference of losses ([\d.e-]+)", printed)
    (dual,) = numbers(r"difference of dual norms ([\d.e-]+)", printed)
    assert loss < 1e-9
    assert dual < 1e-8


CHECKS = {
    f"gallery_{check.__name__}": check
    for check in (
        first_training, vision_transformer, gpt, lora, minimize, smoothness, constrained, average,
        trainer, lightning, many_ranks,
    )
}  # fmt: skip


def numbers(pattern: str, printed: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, printed)]


def names(path: Path) -> str:
    return path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=names)
def test_an_example_finds_and_draws_what_it_says(path, tmp_path):
    done = subprocess.run(
        [sys.executable, path],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "MPLBACKEND": "agg",
            "NORMBALL_PICTURES": str(tmp_path / "pictures"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    CHECKS[path.stem](done.stdout)
    assert [file.name for file in tmp_path.iterdir()] == ["pictures"]
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == f"{path.stem}.svg"
    drawn = ET.parse(picture)
    words = ["".join(element.itertext()).strip() for element in drawn.iter(TEXT)]
    assert any(len(word) > 3 for word in words)


def hooks():
    """The site's hooks, which make the notebooks."""
    for module in ("jupytext", "latex2mathml", "mkdocs"):
        pytest.importorskip(module)
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=names)
def test_an_example_is_a_notebook_that_needs_no_file_beside_it(path):
    made = json.loads(hooks().notebook(path))
    assert made["nbformat"] == 4
    kinds = [cell["cell_type"] for cell in made["cells"]]
    assert kinds[:2] == ["markdown", "code"]
    assert made["cells"][0]["source"][0].startswith("# ")
    defined: set[str] = set()
    for cell in made["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    assert node.module not in ("drawing", "real_data")
                elif isinstance(node, ast.Import):
                    assert {alias.name for alias in node.names}.isdisjoint({"drawing", "real_data"})
                elif isinstance(node, ast.FunctionDef):
                    defined.add(node.name)
    assert "save" in defined
    assert hooks().notebook(path) == hooks().notebook(path)


def test_a_notebook_runs_where_nothing_else_is(tmp_path):
    """The quickest one, cell by cell as a kernel would, in a process that sees no examples/."""
    made = json.loads(hooks().notebook(ROOT / "examples" / "gallery_minimize.py"))
    cells = ["".join(c["source"]) for c in made["cells"] if c["cell_type"] == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    code = "import json\nfor cell in json.load(open('cells.json')): exec(cell, globals())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "NORMBALL_PICTURES": "."},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    minimize(done.stdout)
    assert (tmp_path / "gallery_minimize.svg").is_file()


def test_the_page_shows_every_example():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert set(CHECKS) == {path.stem for path in EXAMPLES}
    shown = re.findall(r"!\[[^\]]{20,}\]\(gallery/(\w+)\.svg\)\n\n\[Source\]\((\S+)\)", page)
    assert sorted(shown) == [(p.stem, f"../examples/{p.name}") for p in EXAMPLES]
    assert page.count("\n## ") == len(EXAMPLES)
    for name in ("hf_trainer.py", "lightning_digits.py", "fsdp2_gpt.py"):
        assert name in page
        assert (ROOT / "examples" / name).is_file()
