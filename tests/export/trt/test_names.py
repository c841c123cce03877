"""Every name of TensorRT that the program uses exists in its real bindings, and takes what it is given there."""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
VERSIONS = ("10.15.1.29", "10.16.1.11", "11.4.0.106")
SOURCES = (
    "kernels/trt_plugins.py",
    "export/engine_from_onnx.py",
    "export/engine_log.py",
    "img_deploy/runtime/backends/tensorrt/backend.py",
    "img_deploy/runtime/backends/tensorrt/engine.py",
    "img_deploy/runtime/backends/tensorrt/runner.py",
)
MODULES = ("trt", "trtp")
ALIASES = {"flags": "trt.NetworkDefinitionCreationFlag"}
"""Names that a source gives to a part of TensorRT."""
RTX_ALONE = {"trt.CudaGraphStrategy", "trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE"}
FULL_ALONE = {
    "trt.BuilderFlag.VERSION_COMPATIBLE",
    "trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS",
    "trt.QuickPluginCreationRequest",
}
"""Names that one edition has and the code uses for it alone."""
COMPUTED = {
    "getattr(trt.HardwareCompatibilityLevel": ("NONE", "SAME_COMPUTE_CAPABILITY", "AMPERE_PLUS"),
    "getattr(trt.DataType": ("FLOAT", "INT64"),
}
"""Members that the program looks up by name."""


def chains(path: Path) -> Iterator[str]:
    """Dotted names in a source that begin with a module of TensorRT's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            root = ALIASES.get(node.id, node.id)
            if parts[0] in MODULES:  # held by an object
                root, *parts = parts
            if parts and root.split(".")[0] in MODULES:
                yield ".".join((root, *parts))


def names_used() -> set[str]:
    used = {chain for source in SOURCES for chain in chains(ROOT / source)}
    for call, members in COMPUTED.items():
        text = "".join((ROOT / source).read_text() for source in SOURCES)
        assert call in text, f"{call} is gone: take it out of the list"
        used |= {f"{call.partition('(')[2]}.{member}" for member in members}
    return used


@pytest.fixture
def looked_up(in_bindings: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def look(version: str, names: set[str]) -> dict[str, Any]:
        listed = tmp_path / "names.json"
        listed.write_text(json.dumps(sorted(names)))
        return json.loads(in_bindings(version, "names.py", listed))

    return look


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_of_the_sources_exists(version: str, looked_up: Callable[..., dict[str, Any]]) -> None:
    """A name that TensorRT renamed or dropped would end a build on the user's GPU after minutes."""
    used = names_used() - RTX_ALONE
    assert {"trt.Builder", "trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE", "trtp.register", "trtp.aot_impl"} <= used
    assert len(used) > 30
    missing = [name for name, found in looked_up(version, used).items() if not found["found"]]
    assert missing == []


def test_every_name_exists_in_tensorrt_for_rtx() -> None:
    """Building meets the real library in the tests; running, which needs a card, would end on a name it has not."""
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (make rtx)")
    used = {name for name in names_used() - FULL_ALONE if name.startswith("trt.")}
    assert used >= RTX_ALONE
    missing = []
    for name in used:
        found = rtx
        for part in name.split(".")[1:]:
            found = getattr(found, part, missing)
        missing += [name] if found is missing else []
    assert missing == []
    (takes_config,) = (
        line for line in rtx.ICudaEngine.create_execution_context.__doc__.splitlines() if "IRuntimeConfig" in line
    )
    assert "runtime_config" in takes_config
    for method in (
        "is_stream_capturable",
        "set_device_memory",
        "execute_async_v3",
        "infer_shapes",
        "set_tensor_address",
    ):
        assert callable(getattr(rtx.IExecutionContext, method))
    for owner, attribute in ((rtx.IRuntimeConfig, "cuda_graph_strategy"), (rtx.ICudaEngine, "device_memory_size_v2")):
        assert isinstance(getattr(owner, attribute), property)


def test_a_name_that_does_not_exist_is_noticed(looked_up: Callable[..., dict[str, Any]]) -> None:
    """The check itself would pass everything."""
    gone = {"trt.BuilderFlag.FP16", "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "trt.IInt8Calibrator"}
    assert not any(found["found"] for found in looked_up("11.4.0.106", gone).values())
    assert looked_up("10.16.1.11", {"trt.BuilderFlag.FP16"})["trt.BuilderFlag.FP16"]["found"]


def members_of_the_double(double: ModuleType) -> dict[str, Any]:
    """Every public class and member of the stand-in, by TensorRT's name."""
    found: dict[str, Any] = {}
    for name, value in vars(double).items():
        if not inspect.isclass(value) or value.__module__.partition(".")[0] != double.__name__ or name.startswith("_"):
            continue
        found[f"trt.{name}"] = value
        if issubclass(value, Enum):
            found |= {f"trt.{name}.{member.name}": member for member in value}
            continue
        for member, each in vars(value).items():
            if not member.startswith("_") and member not in ("fails", "drops", "configs", "executed", "made"):
                found[f"trt.{name}.{member}"] = each
        found |= {f"trt.{name}.{each}": None for each in getattr(value, "_names", ())}
    return found


def parameters(signature: str) -> list[str]:
    """``f(self: A, name: str, size: int = 0) -> bool`` -> name, size."""
    inside = signature[signature.index("(") + 1 :]
    return [name for name in re.findall(r"(?:^|, )(\w+): ", inside) if name != "self"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_promises_no_more_than_the_real_thing(
    version: str, trt: ModuleType, looked_up: Callable[..., dict[str, Any]]
) -> None:
    """Tests would pass on methods and arguments that TensorRT does not have."""
    promised = members_of_the_double(trt)
    assert len(promised) > 90
    found = looked_up(version, set(promised))
    assert [name for name in promised if not found[name]["found"]] == []
    wrong = []
    for name, value in promised.items():
        if inspect.isfunction(value) and found[name]["signatures"]:
            ours = [each for each in inspect.signature(value).parameters if each != "self"]
            real = [parameters(signature) for signature in found[name]["signatures"]]
            if not any(ours == each[: len(ours)] for each in real):
                wrong.append(f"{name}: {ours}, TensorRT has {real}")
    assert wrong == []


def test_signatures_are_compared_at_all(trt: ModuleType, looked_up: Callable[..., dict[str, Any]]) -> None:
    """Documentation without signatures would let every argument pass."""
    promised = members_of_the_double(trt)
    found = looked_up("11.4.0.106", set(promised))
    methods = [name for name, value in promised.items() if inspect.isfunction(value)]
    with_signature = [name for name in methods if found[name]["signatures"]]
    assert len(with_signature) >= 0.9 * len(methods), sorted(set(methods) - set(with_signature))
    (execute,) = found["trt.IExecutionContext.execute_async_v3"]["signatures"]
    assert parameters(execute) == ["stream_handle"]
    assert execute.endswith("-> bool")
