"""`python -m tests.compat DIR [TORCH[:PYTHON] ...]`: the core's tests beside other torch versions.

Each version gets an environment of its own, into which pip puts it together with the wheel of this
checkout, and nothing else: there a training step is taken. Then what the tests need is added, and
the core's tests run against the wheel. The environment, up to 6 GB with its CUDA libraries, is
deleted before the next one is made. Rows and a table are written to DIR.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
# The oldest that the package asks for, what GPU machines often have, the pinned one, the newest.
DEFAULT = ("2.6.0:3.11", "2.11.0:3.12", "2.13.0:3.11", "newest:3.13")
NEEDS = ("cvxpy", "hypothesis", "matplotlib", "numpy", "pytest", "pytest-xdist", "rich", "scipy")
TESTS = (
    *("tests/norms", "tests/polar", "tests/groups", "tests/optim"),
    *("tests/test_balls.py", "tests/test_steps.py", "tests/test_import.py"),
    "tests/distributed/test_agreement.py::test_two_ranks_train_as_one_process",
)
# The column of a test: that of the longest of these its module's name starts with.
COLUMNS = {
    "tests": "others",
    "tests.norms": "norms, polar",
    "tests.polar": "norms, polar",
    "tests.groups": "groups",
    "tests.optim": "optim",
    "tests.optim.test_checkpoints": "checkpoints",
    "tests.optim.test_compile": "compiled step",
    "tests.distributed": "two ranks",
}


def column(module):
    """Return the column of a module of tests."""
    fitting = [name for name in COLUMNS if f"{module}.".startswith(f"{name}.")]
    return COLUMNS[max(fitting, key=len)]


def read(report):
    """Return a JUnit report as counts by column, the ids that failed, and the skips by reason."""
    counts = {name: Counter() for name in COLUMNS.values()}
    failed, skipped = [], Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        # A module that could not be read is itself the test.
        module = case.get("classname") or case.get("name")
        name = case.get("name")
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{module}::{name}")
            outcome = "failed"
        elif skip is not None:
            skipped[skip.get("message")] += 1
            outcome = "skipped"
        else:
            outcome = "passed"
        counts[column(module)][outcome] += 1
    return {name: dict(count) for name, count in counts.items()}, failed, dict(skipped)


def table(rows):
    """Return rows as a table in Markdown: passed, or passed of run; what was skipped, and why."""
    names = list(dict.fromkeys(COLUMNS.values()))
    lines = [f"| torch | Python | a step | {' | '.join(names)} | skipped |"]
    lines.append("|" + "---|" * (len(names) + 4))
    for row in rows:
        cells = [row["torch"], row["python"], "taken" if row["step"] else "failed"]
        for name in names:
            count = row["counts"][name]
            passed, failed = count.get("passed", 0), count.get("failed", 0)
            cells.append(f"{passed} of {passed + failed}" if failed else str(passed))
        reasons = [f"{number}: {reason}" for reason, number in row["skipped"].items()]
        cells.append("; ".join(reasons) or "0")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def call(*command, log=None):
    """Run a command from the root, with this checkout's tests and without its source."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT, env=kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if log is not None:
        log.write_text(done.stdout)
    elif done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done


def starts(interpreter):
    """Return whether it runs: a version manager's stand-in is found, and fails where it is not."""
    return not subprocess.run([interpreter, "-V"], capture_output=True, check=False).returncode


def try_one(version, interpreter, wheel, folder, home):
    """Return the row of one version of torch, tried in an environment that is deleted."""
    python = home / "bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "--no-cache-dir")
    torch = "torch" if version == "newest" else f"torch=={version}"
    started = time.monotonic()
    call(interpreter, "-m", "venv", home)
    call(*pip, torch, wheel)
    about = "import platform, torch; print(torch.__version__, platform.python_version())"
    found, running = call(python, "-W", "ignore", "-c", about).stdout.split()
    step_log, log = folder / f"{found}-step.log", folder / f"{found}.log"
    step = call(python, "-I", "-W", "ignore", "tests/step.py", home, log=step_log)
    pinned = (ROOT / "requirements-dev.lock").read_text("utf-8").splitlines()
    call(*pip, *[line for line in pinned if line.partition("==")[0] in NEEDS])
    installed, report = time.monotonic() - started, home / "report.xml"
    tests = call(
        python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", f"--junitxml={report}",
        *TESTS, log=log,
    )  # fmt: skip
    counts, failed, skipped = read(report)
    for file, done in ((step_log, step), (log, tests)):
        if done.returncode == 0:
            file.unlink()
    return {
        "torch": found, "python": running, "step": step.returncode == 0, "counts": counts,
        "failed": failed, "skipped": skipped, "machine": platform.machine(),
        "install_seconds": round(installed),
        "test_seconds": round(time.monotonic() - started - installed),
    }  # fmt: skip


def main():
    """Try the versions that are asked for one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of rows.jsonl and table.md")
    parser.add_argument("versions", nargs="*", default=DEFAULT, help="TORCH:PYTHON, or newest")
    options = parser.parse_args()
    asked = []
    for word in options.versions:
        version, _, python = word.partition(":")
        interpreter = shutil.which(f"python{python}") if python else sys.executable
        if interpreter is None or not starts(interpreter):
            parser.error(f"{word}: there is no python{python} here: install it, or name another.")
        asked.append((version, interpreter))
    options.folder.mkdir(parents=True, exist_ok=True)
    record, healthy = options.folder / "rows.jsonl", True
    with tempfile.TemporaryDirectory(prefix="compat-") as place:
        call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place)
        (wheel,) = Path(place).glob("*.whl")
        for version, interpreter in asked:
            print(f"torch {version}, {interpreter}", flush=True)
            home = Path(place, "environment")
            try:
                row = try_one(version, interpreter, wheel, options.folder, home)
            finally:
                shutil.rmtree(home, ignore_errors=True)
            with record.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(table([row]), *row["failed"], sep="\n", flush=True)
            # Of all that the folder holds: the versions may be tried one at a time.
            rows = [json.loads(line) for line in record.read_text().splitlines()]
            (options.folder / "table.md").write_text(table(rows))
            healthy = healthy and row["step"] and not row["failed"]
    if not healthy:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
