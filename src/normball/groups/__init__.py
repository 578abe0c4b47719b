"""From a model to parameter groups: every parameter with its norm and its radius."""

from normball.groups.build import param_groups
from normball.groups.plan import Plan, Row

__all__ = ["Plan", "Row", "param_groups"]
