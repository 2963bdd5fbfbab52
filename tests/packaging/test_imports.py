"""The layers, read from the import graph: arrows go down only, and sizes stay within the house rules."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"cairnfs": "engine", "cairnfs.ext": "ext", "cairnfs.daemon": "daemon", "cairnfs.bench": "bench"}

# What each part may import besides itself; a part is the longest of these names that a module's name begins with.
BASE = [
    "cairnfs.errors",
    "cairnfs.types",
    "cairnfs.const",
    "cairnfs.options",
    "cairnfs.clock",
    "cairnfs.units",
    "cairnfs.version",
    "cairnfs.metrics",
]
MAY_IMPORT = {
    "cairnfs.ext": [],
    "cairnfs.meta.stores": ["cairnfs.ext"],
    "cairnfs.objects": ["cairnfs.ext"],
    "cairnfs.cache": ["cairnfs.ext"],
    "cairnfs.meta": ["cairnfs.meta.stores", "cairnfs.ext"],
    "cairnfs.data": ["cairnfs.meta", "cairnfs.cache", "cairnfs.objects", "cairnfs.ext"],
    "cairnfs.vfs": ["cairnfs.meta", "cairnfs.data", "cairnfs.ext"],
    "cairnfs.volume": ["cairnfs.meta", "cairnfs.meta.stores", "cairnfs.data", "cairnfs.objects", "cairnfs.ext"],
    "cairnfs.check": [
        "cairnfs.volume", "cairnfs.meta", "cairnfs.meta.stores", "cairnfs.data", "cairnfs.objects", "cairnfs.ext",
    ],
    "cairnfs.daemon": [
        "cairnfs.vfs", "cairnfs.volume", "cairnfs.check", "cairnfs.meta", "cairnfs.meta.stores", "cairnfs.ext",
    ],
    "cairnfs.bench": ["cairnfs"],
}  # fmt: skip

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


@cache
def modules() -> dict[str, Path]:
    """Every Python module and stub of the project by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in it the import stands."""
    if path.suffix == ".pyx":
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] in ("import", "cimport", "from") and len(words) > 1:
                yield words[1].split(",")[0]
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in modules() else str(node.module)


def part_of(module: str) -> str:
    """The part a module belongs to: its entry in MAY_IMPORT, or the module itself when it is a base module."""
    candidates = [part for part in MAY_IMPORT if module == part or module.startswith(part + ".")]
    return max(candidates, key=len) if candidates else module


@pytest.mark.parametrize("module", sorted(modules()))
def test_arrows_between_layers_go_down(module: str) -> None:
    part = part_of(module)
    allowed = {part, *MAY_IMPORT.get(part, [])} | (set() if part == "cairnfs.ext" else set(BASE))
    for name in imported(modules()[module]):
        root = name.split(".")[0]
        assert root not in ("tests", "support", "engine", "ext", "daemon", "bench"), f"{module} imports {name}"
        if root != "cairnfs":
            continue
        assert part == "cairnfs.bench" or not name.startswith("cairnfs.bench"), f"{module} imports {name}"
        if part != "cairnfs.bench":
            assert part_of(name) in allowed, f"{module} imports {name}: an arrow from {part} that does not go down"


def test_only_the_command_line_knows_the_bench_by_name() -> None:
    """Nothing imports it; `cairnfs bench` is found by the name in `cli.COMMANDS` when somebody asks for it."""
    naming = [
        name
        for name, path in modules().items()
        if part_of(name) != "cairnfs.bench" and path.suffix == ".py" and "cairnfs.bench" in path.read_text()
    ]
    assert naming == ["cairnfs.daemon.cli"]


def test_base_modules_import_only_base_modules_above_them() -> None:
    order = [
        "cairnfs.errors",
        "cairnfs.const",
        "cairnfs.types",
        "cairnfs.clock",
        "cairnfs.version",
        "cairnfs.options",
        "cairnfs.units",
        "cairnfs.metrics",
    ]
    for at, module in enumerate(order):
        ours = [name for name in imported(modules()[module]) if name.startswith("cairnfs")]
        assert set(map(part_of, ours)) <= set(order[:at]), f"{module} imports {ours}"


def test_listed_packages_are_the_folders() -> None:
    folders = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in modules().items()}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders
    assert {name.strip('"'): folder for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()} == FOLDERS


def python_files() -> list[Path]:
    found = [path for folder in ("engine", "ext", "daemon", "bench", "tests") for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def test_files_are_short() -> None:
    kernels = [path for pattern in ("*.pyx", "*.c", "*.h") for path in (ROOT / "ext").glob(pattern)]
    counts = {path: len(path.read_text().splitlines()) for path in [*python_files(), *kernels]}
    assert not {str(path.relative_to(ROOT)): n for path, n in counts.items() if n > MAX_FILE_LINES}


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": n_lines
        for path in python_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (n_lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if (path.name != "__init__.py" or path.read_text().strip()) and not ast.get_docstring(tree_of(path))
    ]
    assert not silent


def test_assert_is_for_tests() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files()
        if path.relative_to(ROOT).parts[0] in ("engine", "daemon")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Assert)
    ]
    assert not found
