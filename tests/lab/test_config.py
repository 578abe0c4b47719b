import json
from dataclasses import asdict
from pathlib import Path

import pytest

from normball.lab.config import RunConfig, format_step
from normball.lab.errors import LabError
from normball.lab.optimizers import OPTIMIZERS, configure, describe_groups, find_optimizer
from normball.lab.rows import ROWS, read_rows
from normball.lab.tasks import DIGITS, build_model, find_task, powers_of_two
from tests import needs
from tests.lab.samples import NETWORKS, config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0.0}, "--lr .* got 0.0"),
        ({"lr": float("nan")}, "--lr .* got nan"),
        ({"lr": float("inf")}, "--lr .* got inf"),
        ({"epochs": 0}, "--epochs .* got 0"),
        ({"batch_size": -1}, "--batch-size .* got -1"),
        ({"batch_size": 1438}, "--batch-size .* 1437.* got 1438"),
        ({"train_size": 1438}, "--train-size .* 1437.* got 1438"),
        ({"test_size": 361}, "--test-size .* 360.* got 361"),
        ({"seed": -1}, "seed .* got -1"),
        ({"seed": 2**63}, "seed .* got 9223372036854775808"),
        ({"alpha": 0.0}, "--alpha .* got 0.0"),
        ({"alpha": 1.5}, "--alpha .* got 1.5"),
        ({"rho": -2.0}, "--rho .* got -2.0"),
        ({"radius": 0.0}, "--radius .* got 0.0"),
        ({"constrained": True, "variant": 3}, "--variant .* got 3"),
        ({"constrained": True, "lr": 1.5}, "--lr .* at most 1 .* got 1.5"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(setting: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        config("clipped-scion", **setting)


@pytest.mark.parametrize(
    ("optimizer", "setting", "message"),
    [
        ("adam", {"rho": 3.0}, "--rho 3.0 does not apply to adam: .* choose clipped-scion"),
        ("adam", {"alpha": 0.1}, "--alpha 0.1 .* choose scion or clipped-scion"),
        ("adam", {"constrained": True}, "--constrained"),
        ("scion", {"rho": 3.0}, "--rho 3.0 does not apply to scion"),
        ("scion", {"constrained": True, "variant": 1}, "--variant 1 does not apply"),
        ("clipped-scion", {"variant": 1}, "add --constrained"),
    ],
)
def test_a_setting_of_another_optimizer_is_refused(
    optimizer: str, setting: dict, message: str
) -> None:
    with pytest.raises(LabError, match=message):
        config(optimizer, **setting)


def test_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(LabError, match="'Cliped-Scion': did you mean 'clipped-scion'"):
        find_optimizer("Cliped-Scion")
    with pytest.raises(LabError, match="'digit': did you mean 'digits'"):
        find_task("digit")
    with pytest.raises(LabError, match="'xyzzy': choose one of: adam, adamw, clipped-scion"):
        find_optimizer("xyzzy")


def test_what_is_not_given_comes_from_the_task() -> None:
    free = configure(DIGITS, "clipped-scion")
    assert (free.lr, free.rho, free.radius) == (
        DIGITS.free["cnn"].lr,
        DIGITS.free["cnn"].rho,
        DIGITS.free["cnn"].radius,
    )
    assert free.variant is None
    held = configure(DIGITS, "clipped-scion", constrained=True, rho=7.0)
    assert (held.lr, held.rho, held.output_radius) == (
        DIGITS.constrained["cnn"].lr,
        7.0,
        DIGITS.constrained["cnn"].output_radius,
    )
    assert held.variant == 2
    adam = configure(DIGITS, "adam")
    assert adam.lr == DIGITS.lrs["adam"]
    assert (adam.alpha, adam.rho, adam.constrained, adam.radius) == (None,) * 4


@needs.records
@pytest.mark.parametrize("model", ["gpt-tiny", "gpt-small"])
def test_the_default_of_the_small_gpts_is_near_the_best_that_was_measured(model: str) -> None:
    default = configure(find_task("shakespeare"), "clipped-scion", model=model)
    folder = Path(__file__).parents[2] / "results/figures/2026-11-24/text"
    means: dict[tuple, list[float]] = {}
    for made in read_rows(folder / ROWS):
        run = made.config
        if (run.optimizer, run.model) == ("clipped-scion", model):
            settings = (run.schedule, run.constrained, run.lr, run.rho)
            means.setdefault(settings, []).append(made.result.score)
    kinds = {settings[:2] for settings in means}
    assert kinds
    for kind in kinds:
        scores = {s[2:]: sum(v) / len(v) for s, v in means.items() if s[:2] == kind}
        assert scores[default.lr, default.rho] < min(scores.values()) + 0.01


@pytest.mark.parametrize("name", needs.optimizers(OPTIMIZERS))
def test_the_optimizer_has_the_settings_of_its_configuration(name: str) -> None:
    run = config(name, lr=0.25, model=NETWORKS.get(name))
    optimizer = OPTIMIZERS[name].build(build_model(run), run)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    if run.radius is not None:
        radii = {group["radius"] for group in optimizer.param_groups}
        assert radii == {run.input_radius, run.radius, run.output_radius}
        assert {group["alpha"] for group in optimizer.param_groups} == {run.alpha}
    if run.rho is not None:
        rhos = {group.get("rho", run.rho) for group in optimizer.param_groups}
        assert rhos == {run.rho}


@pytest.mark.parametrize("model", ["cnn", "mlp", "vit-tiny"])
def test_a_network_without_width_is_refused(model: str) -> None:
    with pytest.raises(LabError, match=f"--model {model} --width 1e-09: .*larger --width"):
        build_model(config(model=model, width=1e-9))


def test_what_is_said_of_the_data_is_so() -> None:
    data = DIGITS.data(config(train_size=DIGITS.train_size, test_size=DIGITS.test_size))
    assert (len(data.train_y), len(data.test_y)) == (DIGITS.train_size, DIGITS.test_size)


def test_the_groups_are_told_for_every_layer() -> None:
    table = describe_groups(config("scion"))
    for name, _ in build_model(config()).named_parameters():
        assert name in table


def test_a_configuration_survives_json() -> None:
    for run in (config("adam"), config("clipped-scion", constrained=True)):
        again = RunConfig.from_dict(json.loads(json.dumps(asdict(run))))
        assert again == run
        assert again.key() == run.key()
    assert config(seed=0).key() != config(seed=1).key()


@pytest.mark.parametrize(
    "change", [{"lr": "x"}, {"seed": 1.5}, {"seed": None}, {"task": 3}, {"more": 1}, {"rho": True}]
)
def test_other_settings_are_not_taken_for_a_configuration(change: dict) -> None:
    with pytest.raises(LabError, match=next(iter(change))):
        RunConfig.from_dict(asdict(config()) | change)


def test_steps_are_written_as_powers_where_they_are() -> None:
    assert [format_step(lr) for lr in (2.0**-5, 1.0, 8.0, 0.001, 0.3)] == [
        "2^-5",
        "2^0",
        "2^3",
        "0.001",
        "0.3",
    ]
    assert powers_of_two(-2, 1) == (0.25, 0.5, 1.0, 2.0)
