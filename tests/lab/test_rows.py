import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from normball.lab.errors import LabError
from normball.lab.rows import ROWS, from_line, new_row, open_folder, to_line
from tests import needs
from tests.lab.samples import RESULT, config, row


def strictly(text: bytes) -> dict:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_row_is_one_line_of_json_and_reads_back() -> None:
    made = row("clipped-scion", seed=3, percent=97.5)
    line = to_line(made)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert strictly(line)["config"]["seed"] == 3
    assert strictly(line)["result"]["score"] == 0.975
    assert from_line(line) == made


def test_numbers_that_are_not_finite_become_null() -> None:
    made = row(
        percent=10.0, diverged=True, train_loss=math.nan, losses=[1.0, math.inf], trace=[math.nan]
    )
    values = strictly(to_line(made))
    assert values["result"]["train_loss"] is None
    assert values["result"]["losses"] == [1.0, None]
    again = from_line(to_line(made)).result
    assert again.diverged
    assert math.isnan(again.train_loss)
    assert math.isnan(again.trace[0])


def test_a_new_row_says_what_ran_it_and_not_where() -> None:
    import platform
    import socket

    import torch

    made = new_row(config("adam"), RESULT)
    assert made.versions["torch"] == torch.__version__
    assert made.versions["python"] == platform.python_version()
    assert set(made.versions) == {"python", "torch", "normball", "numpy", "sklearn"}
    assert "cores" in made.machine
    assert socket.gethostname() not in made.machine


def test_rows_are_kept(tmp_path: Path) -> None:
    rows = [row(seed=seed) for seed in range(3)]
    with open_folder(tmp_path / "a" / "b") as folder:
        for made in rows:
            folder.append(made)
    with open_folder(tmp_path / "a" / "b") as folder:
        assert folder.rows == rows
        assert folder.done() == {made.config.key() for made in rows}
        assert not folder.dropped


@pytest.mark.parametrize("kept", [1, 15, 40, 300])
def test_a_torn_last_line_is_dropped(tmp_path: Path, kept: int) -> None:
    whole = to_line(row(seed=0))
    record = tmp_path / ROWS
    record.write_bytes(whole + to_line(row(seed=1))[:kept])
    with open_folder(tmp_path) as folder:
        assert folder.dropped
        assert folder.rows == [row(seed=0)]
        folder.append(row(seed=2))
    assert record.read_bytes() == whole + to_line(row(seed=2))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"my notes", "not valid JSON"),
        (b"my notes\n", "not valid JSON"),
        (b"\n", "not valid JSON"),
        (b"\xff\xfe\n", "not valid JSON"),
        (b'{"accuracy": 1}\n', "schema"),
        (b"[1, 2]\n", "schema"),
        (to_line(row(seed=1))[:200] + b"\n", "not valid JSON"),
        (to_line(row(seed=1)).replace(b'"seed": 1', b'"seed": "x"'), "seed"),
        (to_line(row(seed=1)).replace(b'"seed": 1', b'"seed": -1'), "-1"),
        (to_line(row(seed=1)).replace(b'"score"', b'"accuracy"'), "accuracy"),
        (to_line(row(seed=1)).replace(b'"optimizer": "scion"', b'"optimizer": "sgd"'), "sgd"),
        (to_line(row(seed=1)).replace(b'"score": 0.9', b'"score": 1e999'), "score is inf"),
        (to_line(row(seed=1)).replace(b'"score": 0.9', b'"score": NaN'), "score is nan"),
        (to_line(row(seed=1)).replace(b'"epochs": 2', b'"epochs": 1' + b"0" * 400), "epochs"),
        (to_line(row(seed=1)).replace(b'"score": 0.9', b'"score": 1' + b"0" * 400), "score is 1"),
        (to_line(row(seed=1)).replace(b'"diverged": false', b'"diverged": 0'), "diverged is 0"),
        (to_line(row(seed=1)).replace(b'"trace": [30.0', b'"trace": ["x"'), "trace is"),
        (to_line(row(seed=1)).replace(b'"skipped": 0', b'"skipped": -1'), "skipped is -1"),
        (to_line(row(seed=0)), "repeats the run of line 1"),
    ],
)
def test_a_foreign_line_is_refused_and_nothing_changed(
    tmp_path: Path, line: bytes, message: str
) -> None:
    content = to_line(row(seed=0)) + line
    record = tmp_path / ROWS
    record.write_bytes(content)
    with pytest.raises(LabError, match=rf"rows.jsonl, line 2 .*{message}"), open_folder(tmp_path):
        pass
    assert record.read_bytes() == content


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        open_folder(tmp_path),
        pytest.raises(LabError, match="another run is at work"),
        open_folder(tmp_path),
    ):
        pass
    with open_folder(tmp_path) as folder:
        assert folder.rows == []


def test_a_folder_with_someone_elses_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(LabError, match=r"report.html but no rows.jsonl"), open_folder(tmp_path):
        pass
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(LabError, match=r"file"), open_folder(path):
            pass


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ROWS).mkdir()
    with pytest.raises(LabError, match=r"cannot read .*rows.jsonl: .*--out"), open_folder(tmp_path):
        pass


def test_a_disk_that_takes_nothing_is_reported(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        folder.record.symlink_to("/dev/full")
        with pytest.raises(LabError, match="No space left"):
            folder.append(row())
        assert folder.rows == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        folder.replace("figure.svg", b"old")
        assert folder.replace("figure.svg", b"new").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "figure.svg"}


def test_a_row_of_one_step_is_not_that_of_another() -> None:
    made = row()
    assert replace(made, config=config(lr=0.1)).config.key() != made.config.key()


@needs.records
def test_a_row_of_the_first_schema_is_still_read() -> None:
    file = Path(__file__).parents[2] / "results/demo/2026-11-23-digits/rows.jsonl"
    line = file.read_bytes().splitlines()[0]
    values = strictly(line)
    assert values["schema"] == "normball.row/1"
    read = from_line(line)
    assert read.result.score == values["result"]["test_accuracy"]
    assert read.result.scores == values["result"]["accuracies"]
    assert (read.config.model, read.config.width, read.commit) == ("cnn", 1.0, None)
