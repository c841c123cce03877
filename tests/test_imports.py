"""Dependencies point one way, and importing a part does not import what it does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = ("features", "text")
GROUND = {"img_deploy.errors", "img_deploy.files", "img_deploy.hardware"}
ALLOWED = {
    "kernels": {"kernels"},
    "img_deploy.errors": set(),
    "img_deploy.files": set(),
    "img_deploy.hardware": set(),
    "img_deploy.features": {"img_deploy.features", *GROUND},
    "img_deploy.text": {"img_deploy.text", *GROUND},
    "img_deploy.annotations": {"img_deploy.annotation_files", "img_deploy.features", *GROUND},
    "img_deploy.annotation_files": GROUND,
    "img_deploy.durations": {"img_deploy.annotation_files", "img_deploy.annotations", *GROUND},
    "img_deploy.model": {"kernels", "img_deploy.model", "img_deploy.features", "img_deploy.text", *GROUND},
    "img_deploy.runtime": {
        "kernels",
        "img_deploy.model",
        "img_deploy.runtime",
        "img_deploy.features",
        "img_deploy.text",
        "img_deploy.annotations",
        "img_deploy.annotation_files",
        "img_deploy.durations",
        *GROUND,
    },
    "img_deploy.server": {
        "img_deploy.server",
        "img_deploy.runtime",
        "img_deploy.features",
        "img_deploy.durations",
        *GROUND,
    },
    "img_deploy.client": GROUND,
    "export": {"kernels", "export", "img_deploy"},
    "training": {"kernels", "training", "img_deploy", "export"},
    "benchmarks": {"kernels", "training", "export", "benchmarks", "img_deploy"},
}
NOT_BELOW_THE_CLI = ("img_deploy.cli",)


def modules():
    for folder in ("img_deploy", "export", "kernels", "training", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield path, ".".join(part for part in parts if part != "__init__")


def imported(path):
    """Modules of this project that a file names in imports, as folder-based names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "img_deploy":
                inner = name.removeprefix("img_deploy.")
                folder = inner.split(".")[0]
                yield inner if folder in ("export", "kernels", "training", "benchmarks") else name


def within(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def test_imports_point_one_way():
    """A kernel that imports the model, or a model that imports the exporter, would make every part need every other."""
    wrong = []
    for path, module in modules():
        for part, allowed in ALLOWED.items():
            if within(module, [part]):
                for name in imported(path):
                    named_cli = within(name, NOT_BELOW_THE_CLI) and part != "benchmarks"
                    if named_cli or not within(name, allowed | {"img_deploy.__version__"}):
                        wrong.append(f"{module} imports {name}")
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("img_deploy", ("numpy", "torch", "onnx", "lightning", "typer")),
        ("img_deploy.model.graphs", ("torch", "onnx")),
        ("img_deploy.runtime.bundle", ("torch", "onnx", "onnxruntime")),
        ("img_deploy.features.folders", ("torch", "onnx")),
        ("img_deploy.text.vocabulary", ("torch", "nltk")),
        ("img_deploy.runtime.predictor", ("torch", "onnx", "lightning")),
        ("img_deploy.cli.main", ("torch", "onnx", "lightning", "matplotlib", "fastapi")),
        ("img_deploy.server.settings", ("torch", "fastapi", "numpy")),
        ("img_deploy.client", ("torch", "fastapi", "numpy")),
        ("img_deploy.kernels", ("triton", "onnx")),
        ("img_deploy.model.network", ("triton", "onnx", "lightning")),
        ("img_deploy.export", ("lightning", "onnxruntime")),
        ("img_deploy.training.config", ("lightning", "torch", "numpy")),
    ],
)
def test_importing_a_part_imports_no_more_than_it_needs(module, absent):
    """`img-deploy --help` or a product's start would pay seconds for packages it does not use."""
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_nothing_is_named_like_a_package_it_would_shadow():
    """`python kernels/triton.py` would import itself as triton."""
    names = {"onnx", "triton", "types", "utils", "torch", "tensorrt", "onnxruntime", "numpy"}
    assert [str(path) for path, _ in modules() if path.stem in names] == []
