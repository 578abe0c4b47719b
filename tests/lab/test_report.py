import math
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from normball.lab.cells import make_cells, ordered
from normball.lab.charts import CHARTS, views
from normball.lab.pages import typeset
from normball.lab.report import page, write_report
from normball.lab.rows import Row, open_folder
from normball.lab.tasks import SHAKESPEARE
from tests.command import call
from tests.lab.samples import row

ROWS = (
    row("adam", 0.01, percent=96.0, trace=[], trace_name=None),
    row("scion", 2.0**-6, 0, 97.0),
    row("scion", 2.0**-6, 1, 97.8),
    row("scion", 2.0**-4, 0, 60.0, diverged=True),
    row("clipped-scion", 2.0**-6, 0, 97.0),
    row("clipped-scion", 2.0**-4, 1, 98.0),
    row("clipped-scion", 2.0**-4, 0, 98.0),
)


def decayed(rows: tuple[Row, ...], gain: float = 0.01) -> tuple[Row, ...]:
    """The same with a decay, and better."""
    return tuple(
        replace(
            one,
            config=replace(one.config, schedule="linear"),
            result=replace(one.result, score=one.result.score + gain),
        )
        for one in rows
    )


def losses(*table: tuple[float, ...], optimizer: str = "scion") -> list[Row]:
    """Rows of a task with losses: for each step the loss of every seed."""
    return [
        replace(
            one,
            config=replace(one.config, task=SHAKESPEARE.name, model="gpt-tiny"),
            result=replace(
                one.result,
                score=loss,
                scores=[1.2 * loss, loss],
                diverged=not math.isfinite(loss),
            ),
        )
        for step, seeds in enumerate(table)
        for seed, loss in enumerate(seeds)
        for one in [row(optimizer, 2.0 ** (step - 10), seed)]
    ]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.about: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.about += [value or "" for name, value in attrs if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_says_what_came_out_and_needs_nothing_else() -> None:
    text = page(ROWS)
    reader = read(text)
    assert "Clipped Scion 2 98 step 2⁻⁴, ρ 16 2⁻⁶ to 2⁻⁴ 4 or more" in reader.text
    assert "within 1 point of the best" in reader.text
    assert "97, 97.8" in reader.text
    assert "60 (1 diverged)" in reader.text
    # Good steps with two seeds: 97 and 97.8, 98 and 98.
    assert (
        "With fixed step the seeds scatter there with a standard deviation of 0.4." in reader.text
    )
    assert "One test image is 0.28 points" in reader.text
    assert "alpha 0.5, input radius 1, radius 5, output radius 200" in reader.text
    assert "7, seeds 0, 1; 0.2 minutes in all" in reader.text
    for fact in ("A box", "torch 2.13", "conv1.weight", "2 epochs, batch 128", "1,797 grey images"):
        assert fact in reader.text
    assert len(reader.links) == 2
    assert all(link.startswith("data:image/svg+xml;base64,") for link in reader.links)
    assert reader.tags.isdisjoint({"script", "link", "iframe"})
    assert "url(" not in text
    assert 'name="viewport"' in text


def test_both_schedules_have_panels_with_one_axis() -> None:
    rows = ROWS + decayed(ROWS)
    reader = read(page(rows))
    assert [re.sub("(, a line|, each).*;", ":", about)[:40] for about in reader.about] == [
        "Score against step size: fixed step. The",
        "Score against step size: linear decay. T",
        "Score after every epoch: fixed step. The",
        "Score after every epoch: linear decay. T",
    ]
    assert reader.text.count("Fixed step optimizer tried best mean") == 1
    assert reader.text.count("Linear decay optimizer tried best mean") == 1
    limits = []
    for view in views(ordered(make_cells(rows))):
        axes = Figure().subplots()
        CHARTS["by-step"](axes, view)
        limits.append(axes.get_ylim())
    assert limits[0] == limits[1]
    low, high = limits[0]
    assert low < 60
    assert high > 99


def test_a_threshold_that_varies_has_its_pictures() -> None:
    assert "threshold" not in " ".join(read(page(ROWS)).about)
    other = replace(ROWS[-1], config=replace(ROWS[-1].config, rho=4.0))
    reader = read(page((*ROWS, other, *decayed(ROWS))))
    assert len(reader.about) == 6
    assert [about.partition(";")[2] for about in reader.about[4:]] == [
        " fixed step. The figures are in the tables."
    ] * 2


def test_diverged_runs_do_not_crush_the_others() -> None:
    rows = losses((1.6, 1.62), (1.5, 1.52), (1.55, math.nan), (math.nan, math.nan), (400.0, 3.0))
    rows += losses((math.nan,), (2.4,), (30.0,), optimizer="adam")
    (view,) = views(ordered(make_cells(rows)))
    axes = Figure().subplots()
    CHARTS["by-step"](axes, view)
    low, high = axes.get_ylim()
    # Every optimizer's best is inside, and the rest of the axis is for them.
    assert 1.4 < low < 1.5
    assert 2.4 < high < 2.7
    adam, scion = axes.lines
    assert list(scion.get_ydata()[:2]) == pytest.approx([1.61, 1.51])
    # The others leave the picture upwards, at numbers that a file can hold.
    assert all(high < value < 10 for value in scion.get_ydata()[2:])
    assert math.isfinite(sum(adam.get_ydata()))
    text = read(page(rows)).text
    assert "1.55, inf (1 diverged)" in text
    assert "within 0.02 nats of the best" in text
    nothing = losses((math.nan,), (math.nan,))
    assert "inf (1 diverged)" in read(page(nothing)).text


def test_the_axis_of_accuracies_shows_small_errors_and_large_ones() -> None:
    (view,) = views(make_cells([row(lr=0.5, percent=10.0), row(lr=0.25, percent=99.0)]))
    axes = Figure().subplots()
    CHARTS["by-step"](axes, view)
    assert list(axes.get_yticks()) == [0, 50, 80, 90, 95, 98, 99]
    low, middle, high = axes.transData.transform([(1, 10), (1, 90), (1, 99)])[:, 1]
    # The error, one point added, falls from 91 to 11 and to 2.
    assert (middle - low) / (high - low) == pytest.approx(math.log(91 / 11) / math.log(91 / 2))


def test_what_a_row_says_is_escaped() -> None:
    text = page([replace(row(), machine="<script>alert(1)</script>")])
    assert "script" not in read(text).tags
    assert "&lt;script&gt;" in text


def test_a_page_of_adam_alone_has_no_groups() -> None:
    assert "pre" not in read(page(ROWS[:1])).tags


def test_the_files_are_written_and_equal_rows_give_equal_files(tmp_path: Path) -> None:
    rows = [*ROWS, *decayed(ROWS)]
    written = []
    for name in ("one", "two"):
        with open_folder(tmp_path / name) as folder:
            folder.rows = rows
            target = write_report(folder)
        assert target == tmp_path / name / "report.html"
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        rows = random.Random(0).sample(rows, len(rows))
    assert written[0] == written[1]
    assert set(written[0]) == {".lock", "report.html", "figure.png", "figure.svg"}
    assert written[0]["figure.png"].startswith(b"\x89PNG\r\n\x1a\n")
    assert ET.fromstring(written[0]["figure.svg"]).tag.endswith("svg")


def test_learning_curves_show_the_mean_of_the_seeds_and_older_rows_may_have_none() -> None:
    older = row("adam", 0.01, percent=96.0, scores=[])
    seeds = [row(seed=seed, scores=[0.5 + seed / 10, 0.9]) for seed in (0, 1)]
    (view,) = views(ordered(make_cells([older, *seeds])))
    axes = Figure().subplots()
    CHARTS["over-time"](axes, view)
    found = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}
    assert found == {"Scion, step 2⁻⁵": pytest.approx([55.0, 90.0])}
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).y0 == pytest.approx(50)


def test_a_sweep_of_two_schedules_writes_the_same_page_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "digits", "--lr", "2^-5", "--seeds", "0,1", "--epochs", "1")
    words += (
        "--optimizers",
        "scion",
        "--schedule",
        "constant,linear",
        "--train-size",
        "200",
        "--jobs",
        "1",
    )
    assert call(*words, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    for text in ("fixed step", "linear decay", "good steps", str(tmp_path / "report.html")):
        assert text in printed
    with open_folder(tmp_path) as folder:
        assert len(folder.rows) == 4
        assert [made.config.schedule for made in folder.rows] == ["constant", "linear"] * 2
    files = ("report.html", "figure.svg", "figure.png")
    before = [(tmp_path / name).read_bytes() for name in files]
    assert len(read(before[0].decode()).links) == 4
    for name in files:
        (tmp_path / name).unlink()
    assert call(*words, "--out", str(tmp_path)) == 0
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    assert [(tmp_path / name).read_bytes() for name in files] == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2^-12", "2⁻¹²"),
        ("from 2^3 to 0.1", "from 2³ to 0.1"),
        ("none", "none"),
        ("9 % of", "9\u00a0% of"),
    ],
)
def test_texts_are_set_for_print(text: str, expected: str) -> None:
    assert typeset(text) == expected
