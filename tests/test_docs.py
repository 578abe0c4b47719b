"""What the documentation names exists."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from tests import needs

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")),
]


def resolve(name):
    module, *rest = name.split(".")
    found = importlib.import_module(module)
    for part in rest:
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@needs.records
@pytest.mark.parametrize("page", PAGES)
def test_names_and_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`(normball\.[A-Za-z_][\w.]*)`", text):
        resolve(name)
    for path in re.findall(r"`((?:tests|docs|src|benchmarks|results)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_map_has_every_public_name():
    import normball

    text = (ROOT / "docs/paper-map.md").read_text(encoding="utf-8")
    modules = ("norms", "polar", "steps")
    for name in normball.__all__:
        if name not in (*modules, "__version__"):
            assert f"normball.{name}" in text, name


def paragraphs(text):
    """Paragraphs and list items of a page, without code and tables; a formula is one word."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"^\|.*\n?", "", text, flags=re.M)
    text = re.sub(r"\$\$.+?\$\$|\$(?! )[^$\n]+?(?<! )\$", "formula", text, flags=re.S)
    return [part for part in re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", text, flags=re.M) if part]


def test_a_list_is_read_item_by_item():
    page = "One\ntwo.\n- three $a + b$\n- four\n\n| a | b |\n\n```sh\nrm x\n```\n1. five"
    found = [part.split() for part in paragraphs(page)]
    assert found == [["One", "two."], ["three", "formula"], ["four"], ["five"]]


@pytest.mark.parametrize("page", PAGES)
def test_no_paragraph_is_long(page):
    for paragraph in paragraphs((ROOT / page).read_text(encoding="utf-8")):
        assert len(paragraph.split()) <= 80, paragraph


# peft asks transformers, and Lightning torch, by a name that is going to change.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("page", PAGES)
def test_python_in_the_pages_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run one after the other, and print what the text after them says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBALL_DATA", str(tmp_path))
    names, printed = {}, ""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, body in re.findall(r"^```(python|text)\n(.*?)^```", text, re.S | re.M):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(body, page, "exec"), names)
            printed = output.getvalue()
        elif printed:
            assert printed == body
            printed = ""
