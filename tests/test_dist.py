"""Wheel and sdist, as the package index gets them."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from normball import __version__

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
(OLDEST,) = re.findall(r"^torch>=([\d.]+)$", "\n".join(PYPROJECT["project"]["dependencies"]), re.M)
LINK = re.compile(r"\]\(([^)]+)\)|(?:src|href)=\"([^\"]+)\"")
FENCED = re.compile(r"^```.*?^```", re.S | re.M)

pytestmark = pytest.mark.slow


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    (made,) = dist.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def sdist(dist):
    (made,) = dist.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def about(wheel):
    """Return what the index reads of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(file.read(name))


def links(text):
    return ["".join(found) for found in LINK.findall(FENCED.sub("", text))]


def test_the_index_takes_them(wheel, sdist):
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)


def test_the_page_on_the_index_has_no_relative_link(wheel):
    here = (ROOT / "README.md").read_text(encoding="utf-8")
    page = about(wheel).get_payload(decode=True).decode()
    assert FENCED.findall(page) == FENCED.findall(here)
    base = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    base = base[-1]["replacement"].removeprefix("](")
    for mine, theirs in zip(links(here), links(page), strict=True):
        if mine.startswith(("https://", "#")):
            assert theirs == mine
        else:
            part = "raw" if mine.endswith((".svg", ".png")) else "blob"
            assert theirs == f"{base}{part}/HEAD/{mine}"


def test_what_is_in_them(wheel, sdist, unpacked):
    names = zipfile.ZipFile(wheel).namelist()
    assert "normball/py.typed" in names
    assert {"normball/lab/templates/report.html.j2", "normball/lab/templates/tables.html.j2"} < set(
        names
    )
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"normball"}
    assert sdist.stat().st_size <= 1e6
    there = {path.name for path in unpacked.iterdir()}
    assert {"src", "tests", "benchmarks", "docs", "examples", "Makefile", "mkdocs.yml"} <= there
    assert "results" not in there
    assert not [path for path in unpacked.rglob("*") if path.suffix in (".png", ".svg")]


def test_the_tests_of_the_sdist_are_collected(unpacked):
    path = os.pathsep.join([str(unpacked / "src"), str(unpacked)])
    options = ("--collect-only", "-q", "-m", "slow or not slow", "-p", "no:cacheprovider")
    command = (sys.executable, "-m", "pytest", *options)
    said = run(*command, cwd=unpacked, env=os.environ | {"PYTHONPATH": path})
    assert int(re.search(r"(\d+) tests collected", said)[1]) > 3000


def named_torch(version, folder):
    """Return a wheel that says it is torch of that version, and holds nothing."""
    made, inside = folder / f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(made, "w") as file:
        for name, text in files.items():
            file.writestr(f"{inside}/{name}", text)
        record = [f"{inside}/{name},,\n" for name in (*files, "RECORD")]
        file.writestr(f"{inside}/RECORD", "".join(record))
    return made


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_installs_beside_the_oldest_torch_and_trains(kind, wheel, unpacked, tmp_path):
    """In an empty environment, in which torch is the oldest by name and by its files the one here.

    `make compat` does the same with the oldest itself.
    """
    if kind == "sdist":
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=unpacked)
        (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", home)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index")
    # pip adds nothing that it is not given: the oldest torch is enough.
    run(*pip, named_torch(f"{OLDEST}.0", tmp_path), wheel)
    here = "import sysconfig; print(sysconfig.get_path('purelib'))"
    inside = Path(run(python, "-c", here).strip())
    (inside / "torch.pth").write_text(run(sys.executable, "-c", here), encoding="utf-8")
    step = ROOT / "tests/step.py"
    assert run(python, "-I", step, home, cwd=tmp_path).strip() == __version__
