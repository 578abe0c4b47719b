"""Any words on the command line: an exit code and a sentence, never a traceback."""

import contextlib
import io
import random
from itertools import pairwise
from pathlib import Path

import pytest

from normball.cli.app import run
from normball.lab.errors import LabError

COUNT = 10_000
COMMANDS = [
    "train",
    "sweep",
    "reproduce",
    "report",
    "fetch",
    "find-lr",
    "smoothness",
    "rates",
]
OPTIONS = """
--out --optimizers --optimizer --lr --rho --seeds --seed --epochs --batch-size --alpha
--constrained --variant --schedule --warmup --weight-decay --model --width --train-size --test-size
--accumulate --precision --jobs --scale --every --n --resume --tensorboard --help --version
--until-decided --budget --engine --nonsense -x --
""".split()  # noqa: SIM905
VALUES = """
digits cifar10 shakespeare fig1 fig12 cpu gpu local scion clipped-scion adam muon sgd-clip cnn mlp
gpt-tiny airbench linear cosine linear,constant float32 bfloat16 0 1 2 -1 3.5 nan inf 1e400 2^-5
2^-5,2^-4 0,1 2^x 1,,2 , 90m 2h 0s 1d 99999999999999999999999 ^ 0x10 ١ é out out/deep ' "
""".split()  # noqa: SIM905
VALUES += ["", " ", "a b", "\x00"]

pytestmark = pytest.mark.slow


class Reached(LabError):
    """The words made sense: the work would begin here."""


def refuse(*_: object, **__: object) -> None:
    raise Reached("the work would begin here")


def words(chance: random.Random) -> list[str]:
    made = [chance.choice(COMMANDS)] if chance.random() < 0.97 else []
    if chance.random() < 0.9:
        made.append(chance.choice(VALUES))
    for _ in range(chance.randint(0, 6)):
        made.append(chance.choice(OPTIONS))
        if chance.random() < 0.85:
            made.append(chance.choice(VALUES))
    if chance.random() < 0.5:
        made += ["--out", "out"]
    return made


def test_any_words_end_in_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = "normball.cli.commands"
    for place in (
        "train.Trainer",
        "smoothness.Trainer",
        "find_lr.Trainer",
        "train.Scalars",
        "rates.run_rates",
    ):
        monkeypatch.setattr(f"{base}.{place}", refuse)
    monkeypatch.setattr(f"{base}.shared.run_plan", refuse)
    monkeypatch.setattr(f"{base}.report.fetch_data", refuse)
    monkeypatch.setattr(f"{base}.report.write_book", refuse)
    chance = random.Random(0)
    codes: dict[int, int] = {}
    reached = 0
    asked = {"out"}
    for _ in range(COUNT):
        argv = words(chance)
        given = (b for a, b in pairwise(argv) if a == "--out")
        asked |= {part for name in given for part in Path(name).parts[:1]}
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = run(argv)
            except SystemExit as end:
                code = end.code
        assert code in (0, 2), (argv, code)
        assert "Traceback" not in out.getvalue() + err.getvalue(), argv
        if code == 2:
            assert err.getvalue().strip(), argv
        reached += "would begin" in err.getvalue()
        codes[code] = codes.get(code, 0) + 1
    assert reached > 100
    assert codes[2] > COUNT / 2
    written = {path.name for path in tmp_path.iterdir()}
    assert written <= asked, "only where somebody asked for it"
