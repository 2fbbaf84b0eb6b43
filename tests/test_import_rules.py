"""What may be loaded where, asked of a fresh interpreter and of import-linter."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import napari_mlbseg

ROOT = Path(__file__).parent.parent


def loaded(*imports: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after the imports."""
    lines = ["import sys", *imports, "print(*{name.partition('.')[0] for name in sys.modules})"]
    return set(subprocess.check_output([sys.executable, "-c", "\n".join(lines)], text=True).split())


def modules_of(package: str) -> list[str]:
    """Import statements for a package and all its modules."""
    paths = sorted((ROOT / "napari_mlbseg" / package).rglob("*.py"))
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    return [f"import {'.'.join(part for part in each if part != '__init__')}" for each in parts]


def test_importing_the_package_loads_next_to_nothing():
    assert not loaded("import napari_mlbseg") & {"torch", "monai", "napari", "qtpy", "numpy", "pydantic"}


def test_the_process_that_shows_the_window_holds_no_torch():
    imports = [line for room in ("session", "viewer", "io") for line in modules_of(room)]
    assert not loaded("import napari_mlbseg", *imports, "import napari_mlbseg.jobs.local") & {"torch", "monai"}


def test_the_command_line_holds_neither_torch_nor_a_window():
    assert not loaded(*modules_of("cli")) & {"torch", "monai", "napari", "qtpy", "magicgui"}


def test_jobs_sessions_and_files_need_no_window():
    imports = [line for room in ("jobs", "session", "io") for line in modules_of(room)]
    assert not loaded(*imports) & {"napari", "qtpy", "magicgui", "superqt", "PyQt6"}


@pytest.mark.parametrize("name", napari_mlbseg.__all__)
def test_every_public_name_is_there(name):
    assert getattr(napari_mlbseg, name) is not None
    assert name in dir(napari_mlbseg)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        napari_mlbseg.nothing  # noqa: B018


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Ask import-linter about the package in a folder."""
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, "-c", command], cwd=root, env=environment, capture_output=True, text=True)


needs_import_linter = pytest.mark.skipif(find_spec("importlinter") is None, reason="import-linter is not installed")


@needs_import_linter
def test_import_linter_keeps_the_contracts():
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout
    assert "0 broken" in answer.stdout


@needs_import_linter
@pytest.mark.parametrize("module", ["cli/predict.py", "viewer/panels/panel.py", "jobs/folder.py"])
def test_torch_in_a_module_that_the_window_or_the_command_line_loads_breaks_a_contract(tmp_path, module):
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    shutil.copytree(ROOT / "napari_mlbseg", tmp_path / "napari_mlbseg", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "napari_mlbseg" / module).open("a", encoding="utf-8") as file:
        file.write("\nimport torch\n")
    answer = lint(tmp_path)
    assert answer.returncode != 0
    assert f"{'napari_mlbseg/' + module.removesuffix('.py')}".replace("/", ".") + " -> torch" in answer.stdout


def test_every_module_stands_in_a_contract():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    named = set()
    for section in (name for name in setup.sections() if name.startswith("importlinter:contract")):
        named |= set(re.findall(r"[\w.]+", setup[section].get("source_modules", "") + setup[section].get("layers", "")))
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "napari_mlbseg").rglob("*.py")]
    modules = {".".join(part for part in each if part != "__init__") for each in parts}
    covered = {module for module in modules for name in named if f"{module}.".startswith(f"{name}.")}
    assert modules - covered - {"napari_mlbseg"} == set()


def imported_by_each() -> dict[str, set[str]]:
    """Modules of the package that each module imports, wherever in the file, also for types alone."""
    paths = {path.relative_to(ROOT).with_suffix("").parts: path for path in (ROOT / "napari_mlbseg").rglob("*.py")}
    modules = {".".join(part for part in parts if part != "__init__"): path for parts, path in paths.items()}
    imported = {}
    for module, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if name in modules else str(node.module) for name in names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        imported[module] = (found & set(modules)) - {module}
    return imported


def test_no_two_modules_import_each_other():
    imported = imported_by_each()
    assert len(imported) > 100
    assert {(a, b) for a, of_a in imported.items() for b in of_a if a in imported[b]} == set()
