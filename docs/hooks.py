"""What the site changes in the pages: links that lead out of docs/ become plain names."""

import re
from typing import Any

_OUTSIDE = re.compile(
    r"(?<!!)\[([^\]]+)\]\((?:\.\./)+(?:tests|src|results|benchmarks|examples|[A-Z]+)[^)]*\)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words of a link to a file that the site does not hold.

    Args:
        markdown: a page's text.
    """
    return _OUTSIDE.sub(r"\1", markdown)
