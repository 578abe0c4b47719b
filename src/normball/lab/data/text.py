"""Shakespeare, or any text: characters, or the byte pairs of GPT-2."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from normball.lab.data.base import Text
from normball.lab.data.root import check_digest, data_root, foreign, missing, read_bytes
from normball.lab.errors import LabError

# Looked for in this order: the user's own text, the plays, the short form known from char-rnn.
TEXTS = ("text.txt", "shakespeare-plays.txt", "tinyshakespeare.txt")
BYTE_PAIRS = "gpt2"
# GPT-2's published vocabulary.
BYTE_PAIR_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
_TRAIN_SHARE = 0.9
# The number of GPT-2's tokens; a vocabulary of 50,304 would leave 47 rows of the table untrained.
_GPT2_TOKENS = 50_257
_GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


@cache
def load_shakespeare(
    window: int = 64, epoch: int = 50, test_windows: int = 256, byte_pairs: bool = False
) -> Text:
    """A text, its first nine tenths for training, the rest for testing.

    The text is the first of ``text.txt`` (any text), ``shakespeare-plays.txt`` (from ``normball
    fetch shakespeare``) and ``tinyshakespeare.txt`` in the data root.

    Args:
        window: tokens of an example.
        epoch: steps of an epoch.
        test_windows: windows of the test text that are used.
        byte_pairs: tokens are GPT-2's byte pairs, not characters.

    Raises:
        LabError: if there is no text, it is not UTF-8, or too short.
    """
    path, text = read_text()
    tokens, vocabulary = _byte_pairs(text) if byte_pairs else characters(text)
    split = int(len(tokens) * _TRAIN_SHARE)
    if len(tokens) - split <= window:
        raise foreign(path, f"{len(tokens)} tokens are too few for windows of {window}")
    kind = "GPT-2 tokens" if byte_pairs else "characters"
    return Text(
        tokens[:split],
        tokens[split:],
        vocabulary=vocabulary,
        window=window,
        epoch=epoch,
        source=f"{path.name}, {len(tokens):,} {kind}, {vocabulary:,} different, "
        "test windows spread evenly",
        test_windows=test_windows,
    )


def read_text() -> tuple[Path, str]:
    """The text and its file, the first of ``TEXTS`` that is there; a LabError if not in UTF-8."""
    root = data_root()
    path = next((root / name for name in TEXTS if (root / name).is_file()), None)
    if path is None:
        raise missing(
            "text", f"run `normball fetch shakespeare`, or put a text file there as {TEXTS[0]}"
        )
    try:
        return path, read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise foreign(path, f"it is not UTF-8 ({error.reason} at byte {error.start})") from None


def characters(text: str) -> tuple[Tensor, int]:
    """A text as numbers of its characters in their order, int32, and how many differ."""
    known = {character: index for index, character in enumerate(sorted(set(text)))}
    return torch.tensor([known[character] for character in text], dtype=torch.int32), len(known)


def _byte_pairs(text: str) -> tuple[Tensor, int]:
    return torch.tensor(gpt2_encoding().encode_ordinary(text), dtype=torch.int32), _GPT2_TOKENS


@cache
def gpt2_encoding():  # type: ignore[no-untyped-def]
    """GPT-2's tokenizer, from its two published files in the data root; nothing is downloaded.

    A LabError if tiktoken or a file is missing, or a file is another one.
    """
    try:
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    except ModuleNotFoundError:
        raise LabError('GPT-2 tokens need tiktoken: pip install "normball[text]".') from None
    folder = data_root() / BYTE_PAIRS
    for name, digest in BYTE_PAIR_FILES.items():
        if not (folder / name).is_file():
            raise missing(
                "GPT-2 vocabulary",
                f"run `normball fetch gpt2-tokens`, or put {name} into {BYTE_PAIRS}",
            )
        check_digest(folder / name, read_bytes(folder / name), digest)
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    return tiktoken.Encoding(
        "gpt2",
        pat_str=_GPT2_WORDS,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": _GPT2_TOKENS - 1},
        explicit_n_vocab=_GPT2_TOKENS,
    )
