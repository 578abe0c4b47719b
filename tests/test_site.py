"""The site builds without a warning and has every public name."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "norms",
    "polar",
    "theory",
    "theory.bounds",
    "plot",
    "live",
    "groups",
    "lightning",
    "transformers",
)


def public_names() -> set[str]:
    import normball

    names = {f"normball.{name}" for name in normball.__all__ if name != "__version__"}
    for package in PACKAGES:
        module = importlib.import_module(f"normball.{package}")
        names |= {f"normball.{package}.{name}" for name in module.__all__}
    from normball import steps
    from normball.theory import problems

    for module in (steps, problems):
        names |= {
            f"{module.__name__}.{name}"
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        }
    # The page of a name is that of its shortest form.
    names -= {"normball.groups.param_groups", "normball.theory.minimize"}
    return names - {f"normball.{name}" for name in ("norms", "polar", "steps")}


@pytest.mark.slow
def test_the_site_builds_strictly_and_has_every_public_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    anchors = "".join(
        page.read_text(encoding="utf-8") for page in (tmp_path / "api").glob("*.html")
    )
    missing = [name for name in sorted(public_names()) if f'id="{name}"' not in anchors]
    assert missing == []
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.googleapis" not in text
        assert "cdn" not in text.lower(), page
        for source in re.findall(r'<img[^>]*? src="([^"]+)"', text):
            assert (page.parent / source).is_file(), (page.name, source)


def formulas(page: Path) -> list[str]:
    """Every formula of a page, by Pandoc's rule for dollars: no blank inside of them."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = re.findall(r"\$\$(.+?)\$\$|\$(?! )([^$]+?)(?<! )\$", text, re.S)
    return [block or inline for block, inline in found]


def test_formulas_are_read_whole() -> None:
    """A command that the converter does not know leaves its backslash, or an empty operator."""
    from latex2mathml.converter import convert

    found = [formula for page in (ROOT / "docs").rglob("*.md") for formula in formulas(page)]
    assert len(found) > 200
    for formula in found:
        written = convert(formula.strip())
        assert "\\" not in written, formula
        assert "<mo />" not in written, formula
    assert "\\" in convert(r"\nosuchcommand x")


@pytest.mark.slow
def test_the_theory_page_shows_every_formula(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    text = (tmp_path / "theory.html").read_text(encoding="utf-8")
    assert text.count("<math ") == len(formulas(ROOT / "docs" / "theory.md"))
    assert "arithmatex" not in text


COLUMN = 688  # pixels: the width of the text beside the navigation on a screen of 1280


@pytest.mark.parametrize(
    "picture",
    [*(ROOT / "docs").rglob("*.svg"), *(ROOT / "results/arena/2026-11-27").glob("*.svg")],
    ids=lambda path: path.name,
)
def test_all_letters_of_a_picture_have_at_least_11_pixels(picture):
    text = picture.read_text("utf-8")
    width = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', text)[1]) * 4 / 3
    sizes = [float(x) for x in re.findall(r"font(?:-size)?: (?:[^;\"]* )?([\d.]+)px", text)]
    assert sizes
    assert min(sizes) * 4 / 3 * min(1, COLUMN / width) >= 11
