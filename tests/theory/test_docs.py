"""The page's example runs, its names exist, and its figures are there."""

import re
from pathlib import Path

import pytest

from normball.theory import bounds

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_example_converges(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("True ")


def test_every_bound_is_on_the_page():
    for name in bounds.__all__:
        if not name.endswith("_parameters") and name != "s3cg_error":
            assert f"{name}`" in TEXT, name


@pytest.mark.parametrize("path", re.findall(r"\]\((figures/[^)]+)\)", TEXT))
def test_figures_exist_and_are_small(path):
    picture = PAGE.parent / path
    assert 1000 < picture.stat().st_size < 200_000


def test_the_theory_stands_on_norms_and_steps_only():
    folder = Path(bounds.__file__).parent.parent
    assert folder.name == "theory"
    for file in folder.rglob("*.py"):
        for module in re.findall(
            r"^\s*(?:from|import) (normball\S*)", file.read_text("utf-8"), re.M
        ):
            allowed = r"normball(\.(theory|norms|steps|_numeric|_spawned|_style)|$)"
            assert re.match(allowed, module), (file, module)
