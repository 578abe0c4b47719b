"""Text as tokens: byte pairs that are learned from it, and whole words."""

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|[^a-z\s]")
_BYTES = 256


def learn_pairs(text: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """The byte pairs of a text: again and again the most frequent pair becomes a token.

    Args:
        text: bytes, shape ``(n,)``.
        count: how many pairs.

    Returns:
        The two tokens of each pair, shape ``(count, 2)``; pair ``i`` is token ``256 + i``.
    """
    tokens, pairs = text.astype(np.int64), np.zeros((count, 2), dtype=np.int64)
    for index in range(count):
        known = _BYTES + index
        counts = np.bincount(tokens[:-1] * known + tokens[1:])
        pairs[index] = divmod(int(counts.argmax()), known)
        tokens = _merge(tokens, pairs[index], known)
    return pairs


def apply_pairs(text: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """A text in byte pairs.

    Args:
        text: bytes, shape ``(n,)``.
        pairs: from ``learn_pairs``.
    """
    tokens = text.astype(np.int64)
    for index, pair in enumerate(pairs):
        tokens = _merge(tokens, pair, _BYTES + index)
    return tokens


def _merge(tokens: NDArray[np.int64], pair: NDArray[np.int64], token: int) -> NDArray[np.int64]:
    at = np.flatnonzero((tokens[:-1] == pair[0]) & (tokens[1:] == pair[1]))
    if pair[0] == pair[1]:  # of a row of equal tokens, every other one begins a pair
        begins = np.r_[True, np.diff(at) != 1]
        run = np.arange(len(at)) - np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))
        at = at[run % 2 == 0]
    merged = tokens.copy()
    merged[at] = token
    return np.delete(merged, at + 1)


def words(text: str, count: int) -> tuple[NDArray[np.int64], int]:
    """A text as words in lower case and marks, the rarest of which are one token, 0.

    The most frequent word of the first nine tenths is 1, the next 2, and so on. Returns tokens, and
    ``count``, the size of the vocabulary.
    """
    found = _WORD.findall(text.lower())
    frequent = Counter(found[: int(0.9 * len(found))]).most_common(count - 1)
    known = {word: index for index, (word, _) in enumerate(frequent, start=1)}
    return np.array([known.get(word, 0) for word in found], dtype=np.int64), count
