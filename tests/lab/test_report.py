import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from normball.lab.figure import PANELS, Comparison, chosen_runs, render
from normball.lab.report import page, typeset, write_report
from normball.lab.rows import Row, open_folder
from normball.lab.summary import summarise
from normball.lab.tasks import DIGITS
from tests.lab.samples import RESULT, config, row


def comparison(*rows: Row) -> Comparison:
    return Comparison(rows, summarise(rows))


ROWS = (
    row("adam", 0.01, percent=96.0, trace=[], trace_name=None),
    row("scion", 2.0**-6, 0, 97.0),
    row("scion", 2.0**-6, 1, 97.8),
    row("scion", 2.0**-4, 0, 60.0, diverged=True),
    row("clipped-scion", 2.0**-6, 0, 97.0),
    row("clipped-scion", 2.0**-4, 1, 98.0),
    row("clipped-scion", 2.0**-4, 0, 98.0),
)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_says_what_came_out_and_needs_nothing_else() -> None:
    text = page(DIGITS, comparison(*ROWS))
    reader = read(text)
    words = " ".join(" ".join(reader.words).split())
    assert "It holds at the step 2⁻⁴" in words
    assert "97.4" in words
    assert "60.0 (1 diverged)" in words
    assert "The best accuracies lie within 2.0 points of each other." in words
    assert "a standard deviation of 0.4 points" in words
    assert "A box" in words
    assert "torch 2.13" in words
    assert "conv1.weight" in words
    assert len(reader.links) == len(PANELS) == 3
    assert all(link.startswith("data:image/svg+xml;base64,") for link in reader.links)
    assert reader.tags.isdisjoint({"script", "link", "iframe"})
    assert "url(" not in text
    assert 'name="viewport"' in text


def test_what_a_row_says_is_escaped() -> None:
    made = replace(row(), machine="<script>alert(1)</script>")
    text = page(DIGITS, comparison(made))
    assert "script" not in read(text).tags
    assert "&lt;script&gt;" in text


def test_a_page_of_adam_alone_has_no_groups() -> None:
    reader = read(page(DIGITS, comparison(ROWS[0])))
    assert "pre" not in reader.tags
    assert "cannot be judged" in " ".join(reader.words)


def test_the_files_are_written(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        folder.rows = list(ROWS)
        target = write_report(DIGITS, folder)
    assert target == tmp_path / "report.html"
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ET.parse(tmp_path / "figure.svg").getroot().tag.endswith("svg")
    assert "html" in read(target.read_text(encoding="utf-8")).tags
    assert not list(tmp_path.glob("*.new"))


def test_equal_rows_give_equal_pictures() -> None:
    assert render(PANELS.values(), comparison(*ROWS), "svg") == render(
        PANELS.values(), comparison(*ROWS), "svg"
    )


def drawn(*rows: Row) -> list[tuple[str, float, int]]:
    return [
        (run.config.optimizer, run.config.lr, run.config.seed)
        for run in chosen_runs(comparison(*rows))
    ]


def test_the_dual_norms_drawn_are_those_at_the_step_of_the_verdict() -> None:
    assert drawn(*ROWS) == [("clipped-scion", 2.0**-4, 0), ("scion", 2.0**-4, 0)]


def test_without_a_verdict_each_is_drawn_at_its_best_step() -> None:
    assert drawn(*ROWS[1:4]) == [("scion", 2.0**-6, 0)]


def test_learning_curves_show_the_mean_of_the_seeds_and_older_rows_may_have_none() -> None:
    def lines(*rows: Row) -> dict[str, list[float]]:
        axes = Figure().subplots()
        PANELS["learning"](axes, comparison(*rows))
        return {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}

    older = row("adam", 0.01, percent=96.0, scores=[])
    seeds = [row(seed=seed, scores=[0.5 + seed / 10, 0.9]) for seed in (0, 1)]
    assert lines(older, *seeds) == {"Scion, step 2⁻⁵": pytest.approx([55.0, 90.0])}


def test_a_diverged_run_can_be_drawn() -> None:
    nan = float("nan")
    result = replace(RESULT, diverged=True, trace=[5.0, nan, nan], train_loss=nan)
    made = Row(config("clipped-scion"), result, {"python": "3"}, "A box")
    assert b"<svg" in render(PANELS.values(), comparison(made), "svg")


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
