"""The layout: packages are listed, imports point one way, top-level folders have one name."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {
    "appa_prob": "appa_prob",
    "appa_prob.operators": "operators",
    "appa_prob.samplers": "samplers",
}
# What a room may import beside the standard library and itself.
ALLOWED = {
    "operators": {"linear_operator", "torch"},
    "samplers": {
        "appa_prob.operators",
        "linear_operator",
        "safetensors",
        "torch",
        "torchdiffeq",
        "tqdm",
    },
}
# Modules that only tests import may need what only tests have.
ONLY_FOR_TESTS = {"strategies.py": {"hypothesis"}}
HEAVY = ["gpytorch", "hypothesis", "matplotlib", "pandas", "pint", "pyro", "torchdiffeq"]
HEAVY += ["xarray", "zarr"]


def modules(folder: str) -> list[Path]:
    """The modules of a folder, links not followed."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not linked(path)]


def linked(path: Path) -> bool:
    return any((ROOT / part).is_symlink() for part in path.relative_to(ROOT).parents)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports; relative ones start with a dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_folders_are_mapped() -> None:
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == FOLDERS


def test_every_package_is_listed() -> None:
    found = {
        ".".join((package, *path.parent.relative_to(ROOT / folder).parts))
        for package, folder in FOLDERS.items()
        for path in modules(folder)
        if path.name == "__init__.py"
    }
    assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("room", ["operators", "samplers"])
def test_links_of_the_working_tree(room: str) -> None:
    link = ROOT / "appa_prob" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


@pytest.mark.parametrize("room", ["operators", "samplers"])
def test_rooms_import_one_way(room: str) -> None:
    for path in modules(room):
        for name in imports(path):
            if name.startswith("."):
                assert not name.startswith(".."), f"{path}: `{name}` leaves the folder"
                continue
            package, top = ".".join(name.split(".")[:2]), name.split(".")[0]
            allowed = ALLOWED[room] | ONLY_FOR_TESTS.get(path.name, set())
            assert not {package, top}.isdisjoint(allowed | sys.stdlib_module_names), (
                f"{path} imports {name}"
            )


def test_appa_prob_imports_itself_relatively() -> None:
    rooms = ("appa_prob.operators", "appa_prob.samplers")
    for path in modules("appa_prob"):
        for name in imports(path):
            assert not name.startswith("appa_prob") or name.startswith(rooms), f"{path}: {name}"


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_are_light(package: str) -> None:
    done = run(f"import sys, {package}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()).isdisjoint(HEAVY)


def test_the_module_for_tests_is_light_until_strategies_are_asked_for() -> None:
    code = "import sys, appa_prob.testing as t; print('hypothesis' in sys.modules); t.expressions"
    done = run(code + "; print('hypothesis' in sys.modules)")
    assert done.stdout.split() == ["False", "True"], done.stderr


@pytest.mark.parametrize("room", ["operators", "samplers"])
def test_bare_imports_are_refused(room: str) -> None:
    done = run(f"import {room}")
    assert done.returncode == 1
    assert f"ImportError: Import this package as `appa_prob.{room}`." in done.stderr
