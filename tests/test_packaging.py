"""What a user installs: the wheel, its manifest and its entry points."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from npe2 import PluginManifest

import napari_mlbseg
from napari_mlbseg.config import PRESETS, TrainingConfig

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "napari_mlbseg" / "napari.yaml"


def test_the_manifest_at_the_root_is_the_one_of_the_package():
    assert (ROOT / "napari.yaml").resolve() == MANIFEST.resolve()


def test_every_command_of_the_manifest_can_be_imported():
    manifest = PluginManifest.from_file(MANIFEST)
    assert manifest.display_name == "MLB-Seg"
    assert {command.id for command in manifest.contributions.commands} >= {"napari-mlbseg.open"}
    for command in manifest.contributions.commands:
        module, _, name = str(command.python_name).partition(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_every_action_of_the_dock_is_a_command_with_a_place_in_a_menu():
    contributions = PluginManifest.from_file(MANIFEST).contributions
    in_menus = {item.command for items in contributions.menus.values() for item in items}
    assert set(contributions.menus) == {"napari/layers/segment", "napari/layers/annotate"}
    for name in import_module("napari_mlbseg.viewer.commands").__all__:
        assert f"napari-mlbseg.{name}" in {command.id for command in contributions.commands}
        assert f"napari-mlbseg.{name}" in in_menus


def test_every_shortcut_is_a_command_and_stands_in_the_documentation():
    from napari_mlbseg.viewer.keys import SHORTCUTS

    commands = {command.id for command in PluginManifest.from_file(MANIFEST).contributions.commands}
    page = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    for action, shortcut in SHORTCUTS.items():
        assert f"napari-mlbseg.{action}" in commands
        assert f"| `{shortcut.key.replace('-', '+')}` | {shortcut.words} |" in page


def test_defaults_of_the_settings_are_those_of_the_parameters():
    configurations = PluginManifest.from_file(MANIFEST).contributions.configurations
    training = configurations["training"].properties
    quick = TrainingConfig.from_preset(training["preset"].default)
    assert training["time_budget"].default == quick.time_budget
    assert set(training["preset"].enum) == set(PRESETS)


def test_the_docks_beside_the_main_one_are_widgets_under_the_names_that_open_them():
    contributions = PluginManifest.from_file(MANIFEST).contributions
    names = {widget.command: widget.display_name for widget in contributions.widgets}
    registry = import_module("napari_mlbseg.viewer.docks.registry")
    assert names["napari-mlbseg.curves"] == registry.CURVES
    assert names["napari-mlbseg.inspector"] == registry.INSPECTOR
    in_menus = {item.command for items in contributions.menus.values() for item in items}
    assert {"napari-mlbseg.curves", "napari-mlbseg.inspector"} <= in_menus


def test_no_qt_binding_is_required():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].lower()
    assert not [binding for binding in ("pyqt5", "pyqt6", "pyside", "napari[") if binding in required]
    assert "napari[all]" in setup["options.extras_require"]["all"]


def test_what_is_required_is_imported_and_what_is_imported_is_required():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    required = {re.split(r"[>=\[]", line)[0].replace("-", "_").lower() for line in lines if line}
    imported = set()
    for path in (ROOT / "napari_mlbseg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    from_extras = {"dask", "distributed", "nilearn"}
    known = {*sys.stdlib_module_names, "napari_mlbseg", *from_extras}
    assert {"scikit_image" if name == "skimage" else name for name in imported - known} == required


def test_the_lowest_versions_are_those_of_the_setup():
    command = [sys.executable, ROOT / "scripts" / "lowest_versions.py", "cluster"]
    lines = subprocess.check_output(command, text=True).splitlines()
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split() + setup["options.extras_require"]["cluster"].split()
    assert lines == [line.replace(">=", "==") for line in wanted if not line.startswith("torch")]


def test_version_of_the_citation_is_that_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == napari_mlbseg.__version__


def test_the_parameter_table_of_the_documentation_names_every_parameter():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        table = import_module("parameter_table").markdown()
    finally:
        sys.path.pop(0)
    for name in TrainingConfig.model_fields:
        assert f"| `{name}` |" in table


@pytest.mark.slow
def test_a_wheel_carries_the_manifest_and_nothing_but_the_package(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "napari_mlbseg", source / "napari_mlbseg", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("napari_mlbseg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("napari_mlbseg/napari.yaml") == MANIFEST.read_bytes()
        information = f"napari_mlbseg-{napari_mlbseg.__version__}.dist-info"
        entry_points = archive.read(f"{information}/entry_points.txt").decode()
        metadata = archive.read(f"{information}/METADATA").decode()
    assert "napari_mlbseg/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"napari_mlbseg", information}
    assert "[napari.manifest]\nnapari-mlbseg = napari_mlbseg:napari.yaml" in entry_points
    assert "napari-mlbseg = napari_mlbseg.cli.main:main" in entry_points
    assert "Classifier: Framework :: napari" in metadata
    assert "License-Expression: BSD-3-Clause" in metadata

    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    installed = target / "napari_mlbseg" / "napari.yaml"
    assert installed.is_file()
    assert not installed.is_symlink()
    assert PluginManifest.from_file(installed).name == "napari-mlbseg"


def test_the_page_on_the_architecture_names_what_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "napari_mlbseg"
    tree = page.split("```")[1]
    inner = [path for path in package.iterdir() if path.name not in ("__init__.py", "__main__.py", "__pycache__")]
    for name in [f"{p.name}/" if p.is_dir() else p.name for p in inner if p.is_dir() or p.suffix == ".py"]:
        assert f" {name} " in tree, f"{name} is missing in the tree"
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", page))
    assert len(named) > 20
    on_the_disk = {"annotations/", "rounds/", "results/"}  # of a session or a job
    assert {name for name in named if "NAME" not in name and not (package / name).exists()} == on_the_disk
