"""Damaged files: each is read or refused by name, and stays as it is."""

import json
import pickle
import random
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from normball import ClippedScion, param_groups
from normball.lab import checkpoints
from normball.lab.checkpoints import Checkpoints
from normball.lab.config import RunConfig
from normball.lab.data.cifar import _read_binary
from normball.lab.data.fashion import read_idx
from normball.lab.data.shards import read_shard
from normball.lab.errors import LabError
from normball.lab.rows import from_line, to_line
from normball.lab.train import Trainer
from tests.fuzz.mutate import ODD, bytes_of, value_of
from tests.lab.conftest import cifar_rows, idx
from tests.lab.samples import config, row

COUNT = 10_000
pytestmark = pytest.mark.slow


def test_rows_are_read_or_refused() -> None:
    chance = random.Random(0)
    lines = [to_line(row("clipped-scion")), to_line(row("adam", seed=3))]
    read = 0
    for number in range(COUNT):
        line = chance.choice(lines)
        if number % 2:
            damaged = bytes_of(line, chance)
        else:
            damaged = json.dumps(value_of(json.loads(line), chance)).encode()
        try:
            made = from_line(damaged)
        except LabError:
            continue
        read += 1
        assert from_line(to_line(made)).config == made.config
    assert 0 < read < COUNT / 2


def test_settings_are_read_or_refused() -> None:
    chance = random.Random(1)
    values = asdict(config("clipped-scion"))
    read = 0
    for _ in range(COUNT):
        damaged = dict(values)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.choice([*values, "more"])] = chance.choice(ODD)
        try:
            made = RunConfig.from_dict(damaged)
        except LabError:
            continue
        read += 1
        assert RunConfig.from_dict(asdict(made)) == made
    assert 0 < read < COUNT / 2


def test_data_files_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(2)
    pixels, labels = cifar_rows(3, 0)
    rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, 40
    tokens = np.arange(40).astype("<u2")
    kinds = {
        "idx": (
            idx(np.arange(60).reshape(3, 4, 5)),
            lambda path: read_idx(path, path.read_bytes()),
        ),
        "binary": (rows.tobytes(), _read_binary),
        "shard": (header.tobytes() + tokens.tobytes(), lambda path: read_shard(path, 4)),
    }
    refused, named = dict.fromkeys(kinds, 0), 0
    for number in range(COUNT):
        kind = list(kinds)[number % len(kinds)]
        content, read = kinds[kind]
        # Damage to the thousands of pixels proves nothing: most goes to the first bytes.
        cut = chance.choice([len(content), 300])
        damaged = bytes_of(content[:cut], chance) + content[cut:]
        path = tmp_path / kind
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except LabError as error:
            message = str(error)
            refused[kind] += 1
            named += str(path) in message
        assert path.read_bytes() == damaged
    assert named == sum(refused.values())
    assert all(count > COUNT / 40 for count in refused.values()), refused


def test_checkpoint_files_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(3)
    run = config("clipped-scion", epochs=1, width=0.125)
    trainer = Trainer(run)
    trainer.run()
    file = Checkpoints(tmp_path, run).save(trainer)
    whole = file.read_bytes()
    refused = 0
    for _ in range(COUNT):
        damaged = bytes_of(whole, chance)
        file.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                checkpoints._config_of(checkpoints._load(file))
        except LabError:
            refused += 1
        assert file.read_bytes() == damaged
    assert refused > COUNT / 4


def test_a_state_that_is_refused_changes_nothing() -> None:
    chance = random.Random(4)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = ClippedScion(param_groups(model), lr=0.1, rho=1.0)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    good = optimizer.state_dict()
    weights = [p.detach().clone() for p in model.parameters()]
    momenta = [optimizer.state[p]["momentum"].clone() for p in model.parameters()]
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    refused = 0
    for _ in range(COUNT):
        damaged = value_of(good, chance)
        try:
            optimizer.load_state_dict(damaged)
        except (TypeError, ValueError):
            refused += 1
            after = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
            assert after == settings
            for p, momentum in zip(model.parameters(), momenta, strict=True):
                assert torch.equal(optimizer.state[p]["momentum"], momentum)
        else:
            optimizer.load_state_dict(good)
        for p, weight in zip(model.parameters(), weights, strict=True):
            assert torch.equal(p, weight)
    assert refused > COUNT / 4


def test_a_pickle_that_acts_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "boom",)

    run = config("clipped-scion", epochs=1)
    kept = Checkpoints(tmp_path, run)
    kept.path.mkdir(parents=True)
    file = kept.path / "epoch-000001.pt"
    torch.save({"schema": Bomb()}, file)
    with pytest.raises(LabError):
        checkpoints._load(file)
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(LabError):
        checkpoints._load(file)
    assert not (tmp_path / "boom").exists()
