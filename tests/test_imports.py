"""Imports go one way, and what is heavy is loaded only where it is used."""

import ast
import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "studio").rglob("*.py"))
LOW = {
    "errors",
    "workspace",
    "recipe",
    "jobs",
    "hub_status",
    "folders",
    "thread_waiting",
    "utf8",
}  # any part may know them
TOP = {"cli", "ui"}  # known to the entry alone
ALLOWED = {
    "errors": set(),
    "workspace": {"errors"},
    "hub_status": set(),
    "folders": {"errors"},
    "thread_waiting": set(),
    "utf8": set(),
    "jobs": {"errors", "workspace"},
    "recipe": {"errors", "workspace"},
    "data": LOW,
    "models": LOW,
    "runs": {"errors", "workspace", "recipe", "jobs", "thread_waiting"},
    "training": LOW | {"data", "models", "runs"},
    "inference": LOW | {"data", "models", "runs"},
    "export": LOW | {"data", "models", "runs", "training", "inference"},
    "evaluation": LOW | {"data", "models", "runs", "inference"},
}
HEAVY = ("torch", "transformers", "datasets", "trl")


def loaded(module: str) -> set[str]:
    """The top-level packages in memory after importing a module in a fresh process."""
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@cache
def imports(path: Path) -> frozenset[str]:
    """The dotted names that a file imports, wherever in it; ``from studio import x`` counts as ``studio.x``."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            whole = node.module == "studio"
            names |= {f"studio.{alias.name}" for alias in node.names} if whole else {node.module}
    return frozenset(names)


def part(path: Path) -> str:
    """The part of the studio that a file belongs to: ``data`` for ``studio/data/row_reader.py``."""
    return path.parts[1].removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("studio.")}


def used_of_modules(path: Path) -> set[tuple[str, str]]:
    """(module, attribute) for what a file takes from the modules of the studio that it imports."""
    tree, modules, used = ast.parse((ROOT / path).read_text(encoding="utf-8")), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("studio"):
            for alias in node.names:
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                except ModuleNotFoundError:
                    used.add((node.module, alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            used.add((modules[node.value.id], node.attr))
    return used


@pytest.mark.parametrize("path", sorted(p.relative_to(ROOT) for p in (ROOT / "benchmarks").glob("*.py")), ids=str)
def test_what_a_benchmark_takes_from_the_studio_is_there(path):
    for module, name in used_of_modules(path):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize("module", ["studio.ui.app", "studio.cli.main"])
def test_the_user_interfaces_load_nothing_heavy(module):
    assert not loaded(module) & set(HEAVY)


def test_the_run_folder_loads_nothing_heavy():
    assert not loaded("studio.runs") & {*HEAVY, "gradio", "typer"}


def test_the_recipe_loads_nothing_heavy():
    assert not loaded("studio.recipe") & {*HEAVY, "gradio", "typer", "numpy"}


def test_the_worker_loads_no_user_interface():
    assert not loaded("studio.training") & {"gradio", "typer", "plotly"}


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) not in TOP], ids=str)
def test_only_the_user_interfaces_know_gradio_and_typer(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"gradio", "typer", "plotly"}


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) not in TOP and p.name != "__init__.py"], ids=str)
def test_imports_go_one_way(path):
    own = part(path)
    assert parts_imported(path) - {own} <= ALLOWED[own]


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) != "cli"], ids=str)
def test_nothing_imports_the_command_line(path):
    assert "cli" not in parts_imported(path)


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) not in ("cli", "ui")], ids=str)
def test_nothing_imports_the_browser_interface_but_the_command_line(path):
    assert "ui" not in parts_imported(path)


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path): path for path in MODULES}


def files_imported(path: Path) -> set[str]:
    """The modules of the studio that a file imports when it runs, in functions too."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names if alias.name in NAMES)
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    found.add(whole if whole in NAMES else child.module)
            visit(child)

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    return found & set(NAMES) - {dotted(path)}


def test_no_two_files_import_each_other_directly_or_in_a_circle():
    graph = {name: files_imported(path) for name, path in NAMES.items()}
    while leaves := [name for name, wanted in graph.items() if not wanted & set(graph)]:
        for name in leaves:
            del graph[name]
    while tops := [name for name in graph if not any(name in wanted for wanted in graph.values())]:
        for name in tops:  # what only leads to a circle is not a part of it
            del graph[name]
    assert not graph
