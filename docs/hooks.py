"""What the site changes in the pages: it holds pictures from outside docs/, and the gallery.

The gallery's examples are there as they are and as notebooks; of other files the site has none.
Links to such files lead to the repository where `repo_url` names one; else they become plain names.
Formulas become MathML, which browsers set without a script.
"""

import html
import os
import re
from pathlib import Path
from typing import Any

import jupytext
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
_OUTSIDE = r"(?:\.\./)+((?:tests|src|results|benchmarks|examples|[A-Z]+)[^)]*)"
_PICTURE = re.compile(rf"(!\[[^\]]*\])\({_OUTSIDE}\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_EXAMPLE = re.compile(r"\[([^\]]+)\]\(\.\./examples/(gallery_\w+)\.py\)")
_HELPER = re.compile(r"^from (drawing|real_data) import .*\n", re.M)
_LINK = re.compile(rf"(?<!!)\[([^\]]+)\]\({_OUTSIDE}\)")


def notebook(path: Path) -> str:
    """Return an example of the gallery as a notebook that needs no file beside it.

    What it takes from modules of examples/ goes into a cell of its own, before its code.

    Args:
        path: of the example, in jupytext's percent format.
    """
    text = path.read_text("utf-8")
    helpers = [path.with_name(f"{name}.py").read_text("utf-8") for name in _HELPER.findall(text)]
    cells = [f"# %%\n{helper}\n" for helper in helpers]
    text = _HELPER.sub("", text).replace("# %%\n", "".join([*cells, "# %%\n"]), 1)
    made = jupytext.reads(text, fmt="py:percent")
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"  # else a random one, and another file by every build
    return str(jupytext.writes(made, fmt="ipynb"))


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Take in the pictures that pages show from outside docs/, and the gallery.

    Args:
        files: of the site.
        config: of the site.
    """
    texts = [Path(file.abs_src_path).read_text("utf-8") for file in files.documentation_pages()]
    for path in sorted({found[1] for text in texts for found in _PICTURE.findall(text)}):
        files.append(File(path, str(ROOT), config.site_dir, use_directory_urls=False))
    for path in sorted((ROOT / "examples").glob("gallery_*.py")):
        source = f"examples/{path.name}"
        files.append(File(source, str(ROOT), config.site_dir, use_directory_urls=False))
        files.append(File.generated(config, f"notebooks/{path.stem}.ipynb", content=notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Point at what the site holds, and at the repository for the rest.

    Args:
        markdown: a page's text.
        page: the page.
        config: of the site.
    """
    up = os.path.relpath(".", Path(page.file.src_uri).parent)
    markdown = _PICTURE.sub(rf"\1({up}/\2)", markdown)
    both = rf"[\1]({up}/examples/\2.py), [notebook]({up}/notebooks/\2.ipynb)"
    markdown = _EXAMPLE.sub(both, markdown)
    if config.repo_url:
        return _LINK.sub(rf"[\1]({config.repo_url.rstrip('/')}/blob/HEAD/\2)", markdown)
    return _LINK.sub(r"\1", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Set formulas.

    Args:
        content: a page as HTML, with TeX inside of what the extension arithmatex marks.
    """

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]).strip(), display=display)

    return _FORMULA.sub(mathml, content)
