"""How `make compat` counts: by the module of a test, failures by name, skips by reason."""

import subprocess
import sys

from tests import compat

TESTS = """
import pytest
def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip(reason="came with torch 2.9")
def test_skipped(): pass
@pytest.fixture
def broken(): raise RuntimeError
def test_errs(broken): pass
"""


def test_columns():
    assert compat.column("tests.norms.test_laws") == "norms, polar"
    assert compat.column("tests.optim.test_shared") == "optim"
    assert compat.column("tests.optim.test_compile") == "compiled step"
    assert compat.column("tests.test_balls") == "others"


def test_a_report_becomes_a_row_of_the_table(tmp_path):
    folder = tmp_path / "tests/optim"
    folder.mkdir(parents=True)
    (folder / "test_small.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    options = ("-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", f"--junitxml={report}")
    command = (sys.executable, "-m", "pytest", *options, "tests")
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    counts, failed, skipped = compat.read(report)
    assert counts["optim"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert not any(count for name, count in counts.items() if name != "optim")
    assert sorted(failed) == [
        "tests.optim.test_small::test_errs",
        "tests.optim.test_small::test_fails",
    ]
    assert skipped == {"came with torch 2.9": 1}
    row = {"torch": "2.6.0", "python": "3.11.7", "step": True, "counts": counts, "failed": failed}
    last = compat.table([row | {"skipped": skipped}]).splitlines()[-1]
    assert last.startswith("| 2.6.0 | 3.11.7 | taken | 0 | 0 | 0 | 1 of 3 | ")
    assert last.endswith(" | 1: came with torch 2.9 |")
