"""Every statement on short runs, and a verdict that can say no."""

import pytest
import torch

from normball.norms import Euclidean, Sign
from normball.theory import printed, problems, rates, run_rates
from normball.theory.checks import GEOMETRIES, KINDS, check
from normball.theory.lanes import Lanes, Noise, random_starts
from normball.theory.minimize import minimize
from normball.theory.separation import separate
from normball.theory.verdicts import compare, descent, fit


@pytest.mark.parametrize("geometry", list(GEOMETRIES))
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "constant-free"])
def test_every_statement_holds(kind, geometry):
    rows, _ = check(kind, geometry, 100, (0, 1))
    assert rows
    for row in rows:
        assert row.holds, row
        assert 0 < row.tightest <= 1 + 1e-9


@pytest.mark.parametrize("geometry", ["Euclidean", "Product"])
def test_steps_without_constants_hold(geometry):
    rows, curves = check("constant-free", geometry, 100, (0,))
    assert [curve.label.partition("rho = ")[2] for curve in curves] == ["", "1 L0/L1", "0.01 L0/L1"]
    assert len({row.statement for row in rows}) == len(rows) == 14
    for row in rows:
        assert row.holds, row
        assert 0 < row.tightest <= 1 + 1e-9


@pytest.mark.slow
def test_all_rates_in_two_processes(tmp_path):
    assert run_rates(tmp_path, n=1000, seeds=range(3), jobs=2)
    table = (tmp_path / "rates.md").read_text(encoding="utf-8")
    assert "FAILS" not in table
    for stem in (
        "deterministic",
        "constrained",
        "stochastic-ggnc",
        "stochastic-s3cg",
        "measured-threshold",
        "constant-free",
    ):
        assert "<text" in (tmp_path / f"{stem}.svg").read_text(encoding="utf-8")


def test_run_rates_writes_table_and_figures_and_can_fail(tmp_path, monkeypatch):
    """With one norm and two kinds; then with a statement that does not hold."""
    monkeypatch.setattr(rates, "GEOMETRIES", {"Sign": GEOMETRIES["Sign"]})
    kinds = {k: KINDS[k] for k in ("relative", "constrained")}
    monkeypatch.setattr(rates, "KINDS", kinds)
    monkeypatch.setattr(rates, "_FIGURES", {k: v for k, v in rates._FIGURES.items() if k in kinds})
    found = separate(1000, 13)
    monkeypatch.setattr(rates, "separate", lambda: found)
    parts = []

    def see(part):
        kept = (tmp_path / "new" / "rates-unfinished.md").read_text("utf-8")
        assert f"Unfinished: {part.done} of 2 parts" in kept
        assert all(f"| {row.statement} | Sign | holds |" in kept for row in part.rows)
        assert not (tmp_path / "new" / "rates.md").exists()
        parts.append(part)

    assert run_rates(tmp_path / "new", n=100, seeds=(0,), jobs=1, on_part=see)
    assert [(part.kind, part.done) for part in parts] == [("constrained", 1), ("relative", 2)]
    assert str(parts[1]) == "[2/2] relative, Sign: 6 of 6 statements hold"
    assert not (tmp_path / "new" / "rates-unfinished.md").exists()
    table = (tmp_path / "new" / "rates.md").read_text(encoding="utf-8")
    assert "| GGNC, Thm 4.3 corrected | Sign | holds |" in table
    assert (tmp_path / "new" / "separation.svg").stat().st_size > 5000

    def wrong(name, *rest):
        _, curves = KINDS["relative"](name, *rest)
        return [rates.Row("a wrong one", name, False, 1.5)], curves

    monkeypatch.setattr("normball.theory.checks.KINDS", KINDS | {"relative": wrong})
    parts.clear()
    assert not run_rates(tmp_path, n=100, seeds=(0,), jobs=1, on_part=parts.append)
    assert str(parts[1]).endswith("0 of 1 statements hold; FAIL: a wrong one")
    assert "| a wrong one | Sign | FAILS | 1.5 |" in (tmp_path / "rates.md").read_text("utf-8")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="n=99"):
        run_rates(tmp_path, n=99)
    with pytest.raises(ValueError, match="seeds"):
        run_rates(tmp_path, n=100, seeds=())
    with pytest.raises(ValueError, match=r"seed .* 2\^63, got -1"):
        run_rates(tmp_path, n=100, seeds=(0, -1))
    with pytest.raises(ValueError, match="jobs=0"):
        run_rates(tmp_path, n=100, jobs=0)


def test_a_bound_that_is_met_holds_and_one_missed_by_a_little_does_not():
    """Bounds as they are, in float64: 0.7 in float32 is below 0.7."""
    measured = torch.tensor([[0.7], [0.1], [1e300]], dtype=torch.float64)
    row, curve = compare("met", "", measured, lambda k, _: float(measured[k - 1, 0]), fitted=False)
    assert (row.holds, row.tightest) == (True, 1.0)
    assert curve.bound == curve.measured
    short = 1 - 2e-9
    row, _ = compare("x", "", measured, lambda k, _: short * float(measured[k - 1, 0]), False)
    assert not row.holds


def test_a_printed_bound_is_seen_to_fail():
    """`x^2/2` from 1 with gamma = 1: the printed Thm 4.3 through the same comparison."""
    measured = torch.ones(1, 1, dtype=torch.float64)
    row, _ = compare(
        "printed",
        "line",
        measured,
        lambda n, _: printed.ggnc(n, 0.5, gamma=1.0, rho=100.0),
        fitted=False,
    )
    assert not row.holds
    assert row.tightest > 1.3


def test_a_step_that_climbs_is_seen():
    problem = problems.quadratic((1.0, 3.0), Euclidean())
    trace = Lanes(problem, random_starts(problem, [0])).run(lambda d, _: 0.8 * d, 5)
    dual = trace.measure[:-1]
    row = descent("too long", "Euclidean", trace, slice(0, 1), 0.4 * dual.square())
    assert not row.holds


def test_slopes_of_a_power():
    places = torch.tensor([10, 100, 1000])
    values = torch.stack([places**-0.25, 3 * places**-0.5], 1).double()
    assert fit(places, values) == pytest.approx((-0.375, -0.5, -0.25))


@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_lanes_are_minimize_side_by_side(name):
    problem = GEOMETRIES[name]().steep
    starts = random_starts(problem, [3, 4])
    gamma, rho = 1 / (2 * problem.L0), problem.L0 / problem.L1
    trace = Lanes(problem, starts).run(lambda d, _: gamma * d.clamp(max=rho), 15)
    for lane in range(2):
        x0 = [x[lane] for x in starts]
        result = minimize(
            problem.fun,
            x0 if isinstance(problem.x0, list) else x0[0],
            method="ggnc",
            norm=problem.norm,
            gamma=gamma,
            rho=rho,
            max_iter=15,
            tol=0,
        )
        assert torch.allclose(trace.fun[:, lane], result.history.fun, rtol=1e-9)
        assert torch.allclose(trace.measure[:, lane], result.history.measure, rtol=1e-6, atol=1e-9)


def test_noise_of_the_lanes_and_the_first_error():
    """`d_0 = 0`: without noise the first error is `(1 - alpha)^2 ||g||^2`."""
    problem = problems.quadratic((1.0, 3.0), Sign(normalized=False))
    starts = random_starts(problem, list(range(3000)))
    still = Lanes(problem, starts).run(lambda d, _: 0 * d, 1, Noise(0.0, 0.1))
    gradient = starts[0] * torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert torch.allclose(still.error[0], 0.81 * gradient.square().sum(1))
    noisy = Lanes(problem, starts).run(lambda d, _: 0 * d, 1, Noise(2.0, 1.0))
    assert float(noisy.error.mean()) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_estimate_that_the_lanes_use(nesterov):
    """Without noise and steps the weights add up to `1 - q^k`, or, looking ahead, `1 - q^(k+1)`."""
    problem = problems.quadratic((1.0, 3.0), Euclidean())
    noise = Noise(0.0, 0.3, nesterov=nesterov)
    trace = Lanes(problem, random_starts(problem, [0])).run(lambda d, _: 0 * d, 6, noise)
    left = 0.7 ** (torch.arange(6, dtype=torch.float64) + 1 + nesterov)
    gradient = float(trace.measure[0, 0])
    assert torch.allclose(trace.error[:, 0], (left * gradient).square())


def test_an_interrupted_run_keeps_what_is_done_and_the_files_of_an_earlier_one(tmp_path):
    (tmp_path / "rates.md").write_text("earlier", encoding="utf-8")

    def stop(part):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rates(tmp_path, n=100, seeds=(0,), jobs=1, on_part=stop)
    assert (tmp_path / "rates.md").read_text("utf-8") == "earlier"
    kept = (tmp_path / "rates-unfinished.md").read_text("utf-8")
    assert "Unfinished: 1 of 28 parts" in kept
    assert "| ggnc by backtracking, cosh | Product | holds |" in kept


def test_separation():
    found = separate(1500, 21)
    assert found.holds
    allowed = [i for i, m in enumerate(found.multiples) if 0.1 < m <= 1]
    assert all(found.ggnc[i] < 1e-9 < 1e-3 < found.ucg[i] for i in allowed)
    assert all(found.sd[i] > found.start for i in allowed if found.multiples[i] > 0.2)
