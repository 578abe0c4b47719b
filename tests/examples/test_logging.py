"""The recipes of docs/howto/logging.md, and that what they write can be read back."""

import re
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PAGE = Path(__file__).parent.parent.parent / "docs/howto/logging.md"
MEASURED = {"shortest_step", "longest_step", "curvature", "mean_curvature", "swing"}
SCALARS = {"dual_norm", "step_factor", "clipped_share", "skipped"} | MEASURED


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Run the page's recipes in an empty folder, and return the folder and their names."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M
    ):
        exec(compile(block, str(PAGE), "exec"), names)
    return tmp_path, names


def test_what_the_recipes_write_can_be_read(page):
    folder, names = page
    events = EventAccumulator(str(folder / "runs/logging"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"optimizer/{name}" for name in SCALARS}
    for name in SCALARS:
        found = events.Scalars(f"optimizer/{name}")
        assert [event.step for event in found] == [0, 10, 20]
        assert all(event.value >= 0 for event in found)
    assert events.Scalars("optimizer/dual_norm")[-1].value > 0

    runs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    assert names["seen"].keys() == SCALARS
    wanted = [f"optimizer/{name}".encode() for name in SCALARS]
    wanted += [repr(value).encode() for value in names["seen"].values()]  # kept as JSON
    # A process of its own writes the file, and can still be at it.
    deadline = time.monotonic() + 60
    while missing := [text for text in wanted if text not in runs[0].read_bytes()]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)


def test_the_table_names_every_metric(page):
    _, names = page
    metrics = set(names["optimizer"].metrics())
    text = PAGE.read_text(encoding="utf-8")
    assert metrics == SCALARS | {"group_dual_norms"}
    assert all(re.search(rf"^\| `{name}`", text, re.M) for name in metrics)
