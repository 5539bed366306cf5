"""Every example in a docstring runs, in the package as users import it.

Pytest's own ``--doctest-modules`` would import the files a second time under the folder's name.
"""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import stepsmith

# Libraries that only an extra or a GPU build brings.
EXTRAS = {"egglog", "jax", "optax", "ray", "triton"}


def module_names(paths: list[str], prefix: str) -> Iterator[str]:
    """The modules below some folders, found without importing them."""
    for found in pkgutil.iter_modules(paths):
        yield prefix + found.name
        if found.ispkg:
            yield from module_names([f"{path}/{found.name}" for path in paths], f"{prefix}{found.name}.")


@pytest.mark.parametrize("name", ["stepsmith", *sorted(module_names(list(stepsmith.__path__), "stepsmith."))])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example that writes a file leaves the checkout clean
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in EXTRAS:
            pytest.skip(f"{name} needs {missing}")
        raise
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0
