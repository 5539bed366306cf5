"""Pages: one style, and templates that are filled in; each is a file with nothing beside it."""

from __future__ import annotations

from importlib import resources


def rendered(name: str, **values: object) -> str:
    """The page of a template of this folder. Values are escaped, unless they are markup; one that is missing raises."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name).render(**values)


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.html.jinja").read_text("utf-8")
