"""Contests in a ball: the grid's best is a run of `minimize`, and its best indeed."""

import math

import pytest

from normball.theory import minimize, problems, tuning


def evaluations(problem, method, limit, **rule):
    first = minimize(
        problem.fun, problem.x0, method=method, norm=problem.norm, beta=problem.beta, max_iter=1,
        tol=0, gamma=1e-9, rho=1.0,
    )  # fmt: skip
    found = minimize(
        problem.fun, problem.x0, method=method, norm=problem.norm, beta=problem.beta,
        max_iter=limit, tol=1e-2 * float(first.history.measure[0]), **rule,
    )  # fmt: skip
    return found.nfev if found.success else math.inf


@pytest.mark.parametrize("method", ["s3cg-1", "s3cg-2"])
def test_the_best_of_the_grid(method):
    problem = problems.low_rank()
    contest = tuning.compete_in_ball(problem, method, max_iter=100)
    again = evaluations(problem, method, 100, gamma=contest.gamma, rho=contest.rho)
    assert again == contest.fixed
    for exponent in (-2, -1, 0, 1, 2):
        gamma = 4.0**exponent / problem.L0
        other = evaluations(problem, method, 100, gamma=gamma, rho=1 / gamma)
        assert other >= contest.fixed
    assert contest.backtracking == evaluations(problem, method, 100, gamma="backtracking")
    assert contest.backtracking <= 2 * contest.fixed
    assert math.isnan(contest.adagrad) == (method == "s3cg-1")
    row = tuning.contest_table([contest]).splitlines()[-1]
    assert row.startswith(f"| low-rank regression, Nuclear(), {method} | {contest.fixed:g} (")
