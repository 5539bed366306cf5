"""A find: a program of a run that stands on the shelf `discovered/found`, with the record of where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..discovered import catalogue

if TYPE_CHECKING:
    from ..evaluator.statistics import Interval

SHELF = "found"


class FindError(ValueError):
    """What cannot be put on the shelf, or replayed, in one line."""


class Ancestor(BaseModel):
    """A row on the way from a start program to the find, as its ledger has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    child: int
    edit: str
    program: str
    fitness: float | None


class Scored(BaseModel):
    """The printed program on seeds that the search never used: speedup over tuned AdamW, a number a seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    seeds: tuple[int, ...]
    speedups: tuple[float, ...]
    factor: float = 1.0  # on the peak learning rate, for a task of another size; other seeds chose it

    @property
    def interval(self) -> Interval:
        """The geometric mean with its interval at 95%."""
        from ..evaluator.statistics import geometric_interval  # takes a second to load

        return geometric_interval(self.speedups)


class Find(BaseModel):
    """What `stepsmith replay` needs to make a find again, and what was known of it when it was kept.

    Attributes:
        config: Of the run; `starts` are the texts of its start programs.
        environment: Search version, op list, libraries and kind of machine.
        commit: Of the code that ran; "" where it was no checkout.
        child: The row; `steps` are those that the run had taken with it.
        fitness: What the search saw, on its own seeds.
        lineage: From the start program to the row.
        rules: What simplified the row's program, in order, before its numbers were named.
        families: That `identify` names.
        scores: Of the find as printed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    config: dict[str, Any]
    starts: tuple[str, ...]
    environment: dict[str, str]
    commit: str
    seed: int
    child: int
    steps: int
    fitness: float
    lineage: tuple[Ancestor, ...]
    rules: tuple[str, ...]
    families: tuple[str, ...]
    scores: tuple[Scored, ...]

    @property
    def children(self) -> int:
        """Rows that the run had by then: they are numbered from 0."""
        return self.child + 1


def shelf() -> Path:
    """The folder of finds, in the package."""
    return Path(catalogue.__file__).parent / SHELF


def finds(folder: Path | None = None) -> list[str]:
    """The names of all finds."""
    return sorted(path.stem for path in (folder or shelf()).glob("*.json"))


def find_of(name: str) -> Find | None:
    """The record of a catalogued program that a search found; None for any other name."""
    known = catalogue.file_stem(name)
    return read_find(known) if known in finds() else None


def read_find(name: str, folder: Path | None = None) -> Find:
    """The record of a find.

    Raises:
        FindError: There is none of that name, or it is damaged.
    """
    path = (folder or shelf()) / f"{catalogue.file_stem(name)}.json"
    if not path.is_file():
        raise FindError(f"there is no find {name!r}; on the shelf: {', '.join(finds(folder)) or 'none yet'}")
    try:
        return Find.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        said = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise FindError(f"{path} cannot be read ({said}); put back the file as it was committed") from None
