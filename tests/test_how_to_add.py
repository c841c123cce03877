"""The recipes of docs/architecture.md: the files they name are there, and no others have to be touched."""

import re
from pathlib import Path

import pytest

from img_deploy.cli.main import COMMANDS
from img_deploy.features.kinds import KINDS
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.runtime.backends.choose import REGISTRY

ROOT = Path(__file__).parents[1]
PRODUCT = ("img_deploy", "export", "kernels", "training", "benchmarks")
BACKENDS = sorted({entry.module.split(".")[-2] for entry in REGISTRY})


def recipe(title):
    """Paths that a recipe names, placeholders as they stand."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    part = text.split("<!-- how-to-add: begin -->")[1].split("<!-- how-to-add: end -->")[0]
    sections = dict(re.findall(r"### (.+?)\n(.*?)(?=\n### |\Z)", part, flags=re.DOTALL))
    return re.findall(r"`([\w<>./-]+/[\w<>./-]*|[\w-]+\.(?:toml|md))`", sections[title])


def there(title, **names):
    return [path for path in (_filled(path, names) for path in recipe(title)) if not (ROOT / path).exists()]


def _filled(path, names):
    for name, value in names.items():
        path = path.replace(f"<{name}>", value)
    return path


@pytest.mark.parametrize("op", OP_NAMES)
def test_files_of_an_op(op):
    """Whoever adds an op would look for files that are not there."""
    assert there("An op", op=op) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_of_a_backend(backend):
    """Whoever adds a backend would look for files that are not there."""
    assert there("A backend", backend=backend) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_files_of_a_command(command):
    """Whoever adds a command would look for files that are not there."""
    assert there("A command", command=command) == []


def test_files_of_a_feature_kind():
    """Whoever adds a kind would look for files that are not there."""
    assert there("A feature kind") == []


def naming(word, folders=PRODUCT):
    """Product files whose code (not prose) holds a word in quotes."""
    quoted = re.compile(rf"""["']{re.escape(word)}["']""")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)) for path in files if quoted.search(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS if kind.stream == "video" and kind.name != "i3d"])
def test_a_kind_is_named_where_the_recipe_says(kind):
    """A kind added by the recipe would be unknown to a part with a list of its own (I3D stands in examples too)."""
    listed = {path for path in recipe("A feature kind") if path.endswith(".py")}
    synthetic = {path for path in naming(kind) if path.startswith("training/synthetic/")}
    assert naming(kind) - synthetic <= listed


@pytest.mark.parametrize("command", ["infer", "inspect", "doctor", "serve"])
def test_a_command_is_named_where_the_recipe_says(command):
    """A command added by the recipe would be missing from a second list."""
    places = {_filled(path, {"command": command}) for path in recipe("A command")}
    assert {path for path in naming(command) if path.startswith("img_deploy/")} <= places
