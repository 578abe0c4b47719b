"""Pages of HTML that need no other file."""

import base64
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from normball._style import raised

_POWER = re.compile(r"\^(-?\d+)")


def fill(template: str, content: dict[str, Any]) -> str:
    """A template of this package, filled in; its filters are ``typeset`` and ``embedded``.

    Args:
        content: the names that it uses; one that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("normball.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(typeset=typeset, embedded=embedded)
    return environment.get_template(template).render(content)


def typeset(text: str) -> str:
    """A text for print: ``2^-5`` becomes ``2⁻⁵``, and ``%`` stays with its number."""
    return _POWER.sub(lambda match: raised(match[1]), text).replace(" %", "\u00a0%")


def embedded(picture: bytes, kind: str = "svg+xml") -> str:
    """A picture as the address of an image, so that a page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
