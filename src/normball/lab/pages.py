"""Pages of HTML that need no other file."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill(template: str, content: dict[str, Any], **filters: Callable[..., Any]) -> str:
    """A template of this package, filled in.

    Args:
        template: its file's name.
        content: the names that it uses; one that is missing is an error.
        filters: its filters by name.
    """
    environment = Environment(
        loader=PackageLoader("normball.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(content)
