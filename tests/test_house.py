"""The house stands: floors, packaging, and a package that imports fast from anywhere."""

import ast
import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

import stepsmith

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
PACKAGES = {"/".join(name.split(".")[1:]) for name in SETUPTOOLS["packages"]}  # as folders; "" is the root
FOLDERS = {name.split("/")[0] for name in PACKAGES} - {""}
ROOT_MODULES = {"__init__.py", "__main__.py", "cli.py"}
FLOORS = {"dsl": 1, "discovered": 2, "proxies": 2, "evaluator": 3, "search": 4, "report": 5, "": 5}
HEAVY = ("torch", "jax", "ray", "egglog", "sklearn", "scipy", "pandas", "sympy")


@cache
def files() -> tuple[PurePosixPath, ...]:
    """What a clone of this checkout would hold: tracked files, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return tuple(PurePosixPath(name) for name in sorted(listing.split("\0")) if (ROOT / name).is_file())


def python_files() -> list[PurePosixPath]:
    return [path for path in files() if path.suffix == ".py"]


def in_package(path: PurePosixPath) -> bool:
    return path.parts[0] in FOLDERS or str(path) in ROOT_MODULES


def imports(path: PurePosixPath) -> Iterator[tuple[int, int, str]]:
    """Every import of a file, wherever it stands: (line, leading dots, dotted name)."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.lineno, node.level, node.module
            else:  # from .. import dsl
                for alias in node.names:
                    yield node.lineno, node.level, alias.name


def python(*args: str, cwd: Path, path: Path | None = None) -> str:
    """The output of a fresh interpreter; ``path`` comes before any installed stepsmith."""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, *args]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# --- the plan ---------------------------------------------------------------------------------------------


def test_the_root_holds_three_modules():
    """Any other module there, a conftest.py say, would ship inside the package."""
    assert {str(path) for path in python_files() if len(path.parts) == 1} == ROOT_MODULES


def test_packages_are_listed():
    found = {str(path.parent) for path in python_files() if path.name == "__init__.py"}
    assert {name.removeprefix(".") for name in found} == PACKAGES
    assert set(FLOORS) == FOLDERS | {""}


def test_nothing_imports_upward_or_sideways():
    wrong = []
    for path in filter(in_package, python_files()):
        here = path.parent.parts
        home = here[0] if here else ""
        for line, level, name in imports(path):
            if level == 0:
                if name.partition(".")[0] == "stepsmith":
                    wrong.append(f"{path}:{line} imports {name}: inside the package imports are relative")
                continue
            if level > len(here) + 1:
                wrong.append(f"{path}:{line} climbs out of the package")
                continue
            first = [*here[: len(here) - level + 1], *name.split(".")][0]
            target = first if first in FOLDERS else ""
            if target != home and (FLOORS[target] > FLOORS[home] or FLOORS[target] == FLOORS[home] < 5):
                wrong.append(f"{path}:{line} imports {target or 'the root'} from floor {FLOORS[home]}")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_a_folder_by_its_bare_name():
    """From the root ``import search`` works, and silently loads a second copy of everything in it."""
    twins = FOLDERS | {"cli"}
    wrong = [
        f"{path}:{line} imports {name}; write stepsmith.{name}"
        for path in python_files()
        for line, level, name in imports(path)
        if level == 0 and name.partition(".")[0] in twins
    ]
    assert not wrong, "\n".join(wrong)


# --- what is imported when --------------------------------------------------------------------------------

SHOW_HEAVY = f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"


def test_the_language_loads_no_heavy_library(tmp_path):
    script = f"import sys, stepsmith, stepsmith.dsl; stepsmith.Program; {SHOW_HEAVY}"
    assert python("-c", script, cwd=tmp_path) == "loaded:\n"


def test_loading_a_program_loads_no_heavy_library(tmp_path):
    script = f"import sys, stepsmith; stepsmith.load('cautious(lion)'); {SHOW_HEAVY}"
    assert python("-c", script, cwd=tmp_path) == "loaded:\n"


def test_help_loads_no_heavy_library(tmp_path):
    script = f"""
import sys
from stepsmith.cli import main
sys.argv = ["stepsmith", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
{SHOW_HEAVY}
"""
    output = python("-c", script, cwd=tmp_path)
    assert "search" in output
    assert output.endswith("loaded:\n")


def test_help_of_the_module(tmp_path):
    assert "search" in python("-m", "stepsmith", "--help", cwd=tmp_path)


def test_public_names_resolve():
    for name in dir(stepsmith):
        assert getattr(stepsmith, name) is not None or name.startswith("__")
    assert stepsmith.Program is stepsmith.dsl.Program


def test_a_misspelt_name_gets_a_hint():
    with pytest.raises(AttributeError, match="did you mean 'Program'"):
        stepsmith.Progam  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute 'zebra'$"):
        stepsmith.zebra  # noqa: B018


# --- what is shipped --------------------------------------------------------------------------------------


# The folder may be called anything, and a dot in its name must not be read as a package's.
@pytest.fixture(scope="module", params=["renamed", "my.clone"])
def clone(request, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clones") / request.param
    for path in files():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    return root


def build(clone: Path, kind: str) -> Path:
    """Ask the build back end for a wheel as pip would, without a network; unpack it beside the clone."""
    site = clone.parent / kind
    if not site.exists():
        script = f"from setuptools import build_meta; print(build_meta.build_{kind}('..'))"
        wheel = python("-c", script, cwd=clone).splitlines()[-1]
        with zipfile.ZipFile(clone.parent / wheel) as archive:
            archive.extractall(site)
    return site


def test_the_wheel_holds_the_package_alone(clone):
    site = build(clone, "wheel")
    shipped = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    about = {name for name in shipped if name.partition("/")[0].endswith(".dist-info")}
    # Notes for readers of the source stay behind; everything else in the folders is code or data.
    expected = {f"stepsmith/{path}" for path in files() if in_package(path) and path.suffix != ".md"}
    assert shipped - about == expected
    assert any(fnmatch.fnmatch(name, "*/licenses/LICENSE") for name in about)
    (info,) = {name.partition("/")[0] for name in about}
    assert info == f"stepsmith-{stepsmith.__version__}.dist-info"
    assert "stepsmith = stepsmith.cli:main" in (site / info / "entry_points.txt").read_text(encoding="utf-8")


WHERE = "print(stepsmith.__file__)"


def test_the_wheel_imports_from_anywhere(clone, tmp_path):
    site = build(clone, "wheel")
    script = f"import stepsmith, stepsmith.dsl; stepsmith.Program; {WHERE}"
    assert Path(python("-c", script, cwd=tmp_path, path=site).strip()) == site / "stepsmith" / "__init__.py"


def test_an_editable_install_finds_the_clone(clone, tmp_path):
    site = build(clone, "editable")
    # -S and an empty path leave out any other stepsmith; the root module needs the standard library only.
    script = f"import site; site.addsitedir({str(site)!r}); import stepsmith; {WHERE}"
    assert Path(python("-S", "-c", script, cwd=tmp_path, path=tmp_path).strip()) == clone / "__init__.py"


def test_pytest_collects_in_a_clone(clone):
    site = build(clone, "wheel")
    these = (Path("tests", name) for name in (Path(__file__).name, "test_finds.py"))  # the latter imports its neighbour
    output = python("-m", "pytest", "--collect-only", "-q", *map(str, these), cwd=clone, path=site)
    assert f"{Path(__file__).name}::{test_pytest_collects_in_a_clone.__name__}" in output
