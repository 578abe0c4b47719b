"""Every public name shows its use in an example, and the examples print what they say."""

import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.test_docs import resolve

ROOT = Path(__file__).parent.parent
NAMES = re.findall(
    r"^::: (normball[\w.]*)",
    "\n".join(page.read_text("utf-8") for page in sorted((ROOT / "docs/api").glob("*.md"))),
    re.M,
)
# Results, which the example of what returns them shows, and a class whose example is on its page.
WITHOUT = {
    "normball.groups.Row",
    "normball.norms.Norm",
    "normball.optim.LrCurve",
    "normball.theory.History",
    "normball.theory.Iterate",
    "normball.theory.Result",
    "normball.theory.rates.Part",
}


def place(name):
    """Return the module that defines a documented name, and the name there, with the module's."""
    found = resolve(name)
    if isinstance(found, ModuleType):
        return name, name
    return found.__module__, f"{found.__module__}.{found.__qualname__}"


def examples(module):
    """Return the examples of a module, by the name of what they explain; each imports its own."""
    found = doctest.DocTestFinder().find(importlib.import_module(module), globs={})
    return {test.name: test for test in found if test.examples}


@pytest.mark.parametrize("module", sorted({place(name)[0] for name in NAMES}))
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for forces_colours in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(forces_colours, raising=False)
    for test in examples(module).values():
        torch.manual_seed(0)
        report = []
        assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("name", sorted({*NAMES} - WITHOUT))
def test_a_public_name_has_an_example(name):
    module, there = place(name)
    assert there in examples(module)


def test_names_without_an_example_are_documented_ones():
    assert set(NAMES) >= WITHOUT
