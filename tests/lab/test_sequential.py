"""Claims judged on fresh seeds: how often the rule errs, how often it decides, what it asks for."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from normball.cli import main
from normball.lab import sequential
from normball.lab.claims import Claim
from normball.lab.reproduce import Experiment, read_experiment, results_of
from normball.lab.rows import ROWS, read_rows
from normball.lab.sequential import FIRST_SEED, LOOKS, NOMINAL, Trial, make_trials, next_runs
from tests.lab.samples import config, row
from tests.lab.test_reproduce import FIGURE

CLAIM = Claim("gain-of-best", "better", "clipped-scion", "scion", at_least=0.0)
CHOSEN = (config("clipped-scion", seed=FIRST_SEED), config("scion", seed=FIRST_SEED))


def rows_of(effects):
    """Accuracies of both, from the first fresh seed on, that differ by `effects`."""
    made = []
    for i, effect in enumerate(effects):
        made.append(row("clipped-scion", seed=FIRST_SEED + i, percent=50 + effect))
        made.append(row("scion", seed=FIRST_SEED + i, percent=50))
    return made


def decided(effects):
    """The share of repetitions, shape (n, 20), in which a look decides; by formula alone."""
    found = np.zeros(len(effects), bool)
    for seeds in LOOKS:
        x = effects[:, :seeds]
        reach = student.ppf((1 + NOMINAL) / 2, seeds - 1) * x.std(1, ddof=1) / math.sqrt(seeds)
        found |= np.abs(x.mean(1)) > reach
    return found.mean()


def test_nine_looks_err_in_ten_percent_of_claims_on_the_bound():
    effects = np.random.default_rng(0).standard_normal((200_000, LOOKS[-1]))
    error = decided(effects)
    # Three standard errors of the simulation are 0.2 %.
    assert 0.094 < error <= 0.1
    # The same interval as for a single look would err three times as often.
    reach = [student.ppf(0.95, n - 1) / math.sqrt(n) for n in LOOKS]
    naive = np.any(
        [
            abs(effects[:, :n].mean(1)) > r * effects[:, :n].std(1, ddof=1)
            for n, r in zip(LOOKS, reach, strict=True)
        ],
        axis=0,
    )
    assert 0.31 < naive.mean() < 0.33


def test_an_effect_of_one_deviation_is_found():
    chance = np.random.default_rng(1)
    powers = [decided(size + chance.standard_normal((20_000, LOOKS[-1]))) for size in (0.5, 1, 2)]
    assert powers[0] > 0.4
    assert powers[1] > 0.95
    assert powers[2] > 0.999


@pytest.mark.parametrize("size", [0.0, 0.7])
def test_the_rule_is_that_of_the_simulation(size):
    """The verdict from rows, against the formula that was simulated above."""
    chance = np.random.default_rng(2)
    effects = size + chance.standard_normal((100, LOOKS[-1]))
    trial = Trial(CLAIM, CHOSEN)
    for x in effects:
        found = trial.verdict(rows_of(x))
        assert (found.outcome != "undecided") == bool(decided(x[None]))
        if found.outcome == "holds":
            assert found.low > 0


def test_the_first_look_that_decides_is_the_last():
    """Later rows do not change a verdict, nor does an interruption."""
    trial = Trial(CLAIM, CHOSEN)
    effects = [2.0, 2.1, 1.9, 2.0] + [-9.0] * 16
    early, late = trial.verdict(rows_of(effects[:4])), trial.verdict(rows_of(effects))
    assert early == late
    assert early.outcome == "holds"
    assert "4 seeds from 100 on, valid at every look" in early.sentence
    assert trial.wanted(rows_of(effects[:4])) == ()


def test_what_it_asks_for():
    trial = Trial(CLAIM, CHOSEN)
    noisy = [1.0, -1.0, 1.1, -0.9, 1.0, -1.1]
    asked = trial.wanted([])
    assert [c.seed for c in asked] == [100, 100, 101, 101, 102, 102, 103, 103]
    assert {c.optimizer for c in asked} == {"clipped-scion", "scion"}
    half = rows_of(noisy[:4])[:-1]  # interrupted before the last run
    assert [(c.seed, c.optimizer) for c in trial.wanted(half)] == [(103, "scion")]
    assert trial.verdict(half).outcome == "undecided"
    assert [c.seed for c in trial.wanted(rows_of(noisy[:4]))] == [104, 104, 105, 105]
    assert [c.seed for c in trial.wanted(rows_of(noisy[:5]))] == [105, 105]
    even = noisy[:2] * 10
    assert trial.verdict(rows_of(even)).outcome == "undecided"
    assert trial.wanted(rows_of(even)) == ()  # all looks are held
    assert Trial(CLAIM, ()).wanted([]) == ()
    assert Trial(CLAIM, ()).verdict([]).outcome == "undecided"


def test_the_figures_seeds_choose_and_judge_nothing():
    """The best settings of seeds 0 to 2 are compared, whatever fresh seeds say of others."""
    configs = [config(name, lr, seed) for name in ("clipped-scion", "scion")
               for lr in (0.25, 0.5) for seed in range(3)]  # fmt: skip
    rows = [
        row(c.optimizer, c.lr, c.seed, percent=80 + (c.lr == 0.5) - 5 * (c.optimizer == "scion"))
        for c in configs
    ]
    experiment = Experiment("fig1", "cpu", "", "", "", (), tuple(configs), (CLAIM, CLAIM))
    fresh = [row("scion", 0.25, FIRST_SEED, percent=99)]
    trials = make_trials(experiment, rows + fresh)
    assert {(c.optimizer, c.lr) for c in trials[0].chosen} == {
        ("clipped-scion", 0.5),
        ("scion", 0.5),
    }
    assert trials[0].verdict(rows).outcome == "undecided"  # old seeds do not count
    asked = next_runs(trials, rows)
    assert len(asked) == 8  # both claims need the same runs
    assert [c.seed for c in asked] == sorted(c.seed for c in asked)


def test_reproduce_until_decided(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(
        "normball.cli.commands.reproduce.load_experiment",
        lambda name, scale: read_experiment(name, scale, FIGURE),
    )
    monkeypatch.setattr(sequential, "LOOKS", (4, 6))
    command = ["reproduce", "fig5", "--until-decided", "--jobs", "1", "--out"]
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(SystemExit):
        main([*command, str(first), "--budget", "0.001s"])
    printed = capsys.readouterr().out
    assert "Time is up: the same command goes on." in printed
    assert {r.config.seed for r in read_rows(first / ROWS)} == {0, 1}
    with pytest.raises(SystemExit) as end:
        main([*command, str(first)])
    printed = capsys.readouterr().out
    verdict = results_of(first)[0]["verdicts"][0]
    assert end.value.code == (0 if verdict["outcome"] == "holds" else 1)
    assert "1 of 1 claims are open: seeds up to 103." in printed
    assert "seeds from 100 on, valid at every look" in printed
    assert "from 100 on" in (first / "fig5.md").read_text(encoding="utf-8")
    # Interrupted before its last three runs, it ends the same.
    second.mkdir()
    lines = (first / ROWS).read_bytes().splitlines(keepends=True)
    (second / ROWS).write_bytes(b"".join(lines[:-3]))
    with pytest.raises(SystemExit):
        main([*command, str(second)])
    assert results_of(second)[0]["verdicts"] == results_of(first)[0]["verdicts"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "1h"], "--budget is a limit for --until-decided"),
        (["--until-decided", "--budget", "soon"], "such as 90s, 60m or 3h, got 'soon'"),
    ],
)
def test_refusals(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "fig1", "--out", str(tmp_path / "x"), *options])
    assert end.value.code != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()
