"""Takes every plugin of a JSON file of nodes through TensorRT's own plugin code, as building an engine does.

Prints, per node and type, what TensorRT would launch. Kernels are not compiled here: other tests do that.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from with_tensorrt import Expressions, evaluated, expression, plugin, registry, trt

from img_deploy.kernels import trt_plugins
from img_deploy.kernels.plugin_form import plugin_form
from img_deploy.kernels.plugin_names import PLUGIN_NAMESPACE, PLUGIN_VERSION
from img_deploy.kernels.plugin_ptx import PORTABLE, PluginKernel, _configurations

LARGEST = {"B": 64, "L": 128, "N": 32, "D": 32}
SIZES = {"B": 3, "L": 37, "N": 5, "D": 32}
MEMBERS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "bool": "BOOL", "int32": "INT32", "int64": "INT64"}


def kernels_without_compiling(node: str, types: list[str], sizes: Any, target: Any) -> tuple[PluginKernel, ...]:
    form = plugin_form(node)
    variants = [variant for variant in form.variants(sizes) if types[0] in variant.dtypes]
    configs = [next(_configurations(form, variant, types[0], target)) for variant in variants]
    return tuple(
        PluginKernel(f"kernel_{i}", "ptx", 32 * config.num_warps, 1024, dict(config.blocks), variant.tuning)
        for i, (variant, config) in enumerate(zip(variants, configs, strict=True))
    )


trt_plugins.plugin_kernels = kernels_without_compiling


def axis_tree(axis: int | str) -> int | str:
    """An axis of the file: a number, a free axis' letter, or a number of channels."""
    if isinstance(axis, int):
        return axis
    times, letter = re.fullmatch(r"(\d*)([A-Z])", axis).groups()
    return int(times or 1) * LARGEST[letter] if letter == "D" else letter


def described(trees: list[int | str], dtype: Any) -> Any:
    """A tensor as TensorRT describes it to a plugin: free sizes are -1 and have a range."""
    desc = trt.DynamicPluginTensorDesc()
    desc.desc.dims = tuple(tree if isinstance(tree, int) else -1 for tree in trees)
    desc.desc.type, desc.desc.format = dtype, trt.TensorFormat.LINEAR
    largest = tuple(evaluated(tree, LARGEST) for tree in trees)
    desc.min, desc.opt, desc.max = tuple(min(size, 1) for size in largest), largest, largest
    return desc


def launch(node: str, axes: dict[str, list[int | str]], storage: str) -> dict[str, Any]:
    """What TensorRT would do with one node of this storage type."""
    names = {name: "bool" if name.endswith("mask") else storage for name in axes}
    own = {"lengths": "int32", "importance": "fp32", "word_unknown": "bool", "char_ids": "int64"}
    names |= {name: kind for name, kind in own.items() if name in names}
    dtypes = [getattr(trt.DataType, MEMBERS[kind]) for kind in names.values()]
    trees = [[axis_tree(axis) for axis in each] for each in axes.values()]

    creator = registry.get_creator(node, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    request = trt.QuickPluginCreationRequest.STRICT_AOT
    fields = trt.PluginFieldCollection([])
    made = creator.create_plugin(node, PLUGIN_NAMESPACE, fields, trt.TensorRTPhase.BUILD, request)
    python = creator.create_plugin(
        node, PLUGIN_NAMESPACE, fields, trt.TensorRTPhase.BUILD, trt.QuickPluginCreationRequest.STRICT_JIT
    )
    assert python.clone().impl_function is python.impl_function
    outputs = made.get_output_data_types(dtypes, [len(each) for each in trees])
    made.get_output_shapes([[expression(tree) for tree in each] for each in trees], [], Expressions())
    shapes = [[size._expr.tree for size in desc.shape_expr] for desc in made.output_descs]
    tensors = [described(*pair) for pair in zip([*trees, *shapes], [*dtypes, *outputs], strict=True)]
    combinations = made.get_supported_format_combinations(tensors, len(axes))
    assert len(combinations) == len(tensors), "exactly one combination of types and formats is offered"
    assert [each.type for each in combinations] == [*dtypes, *outputs]
    assert all(each.format == trt.TensorFormat.LINEAR for each in combinations)
    made.configure_plugin(tensors[: len(axes)], tensors[len(axes) :])
    launches = []
    for tactic in made.get_valid_tactics():
        made.set_tactic(tactic)
        launches.append(one_launch(made, tensors, len(axes)))
        plain = [each.desc for each in tensors]
        kernel = made.get_kernel(plain[: len(axes)], plain[len(axes) :])
        assert kernel == (launches[-1].pop("name"), b"ptx"), kernel
    numbers = [[evaluated(tree, SIZES) for tree in shape] for shape in shapes]
    return {
        "outputs": [[dtype.name, shape] for dtype, shape in zip(outputs, numbers, strict=True)],
        "launches": launches,
    }


class Numbers:
    """Where a plugin leaves its numbers."""

    nbSymExprs = 0

    def __init__(self) -> None:
        self.given: dict[int, Any] = {}

    def __setitem__(self, index: int, value: Any) -> None:
        self.given[index] = value


class Launch:
    """Where a plugin leaves its grid."""


def one_launch(made: Any, tensors: list[Any], inputs: int) -> dict[str, Any]:
    caught: dict[str, Any] = {}
    asked = made.aot_impl_function

    def catching(*arguments: Any) -> Any:
        caught["result"] = asked(*arguments)
        return caught["result"]

    made.aot_impl_function = catching
    numbers, params = Numbers(), Launch()
    made.get_launch_params(None, tensors, inputs, params, numbers, Expressions())
    made.aot_impl_function = asked
    name, _ptx, launched, extras = caught["result"]
    assert numbers.nbSymExprs == len(numbers.given) == len(extras)
    assert all(isinstance(each, trt.ISymExpr) for each in numbers.given.values())
    sizes = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
    assert all(isinstance(getattr(params, size), trt.ISymExpr) for size in sizes)
    values = {size: evaluated(getattr(launched, size)._expr.tree, SIZES) for size in sizes}
    return {"name": name, **values, "extras": [evaluated(each._expr.tree, SIZES) for each in extras]}


def main() -> None:
    nodes = json.loads(Path(sys.argv[1]).read_text())
    trt_plugins.register_plugins(nodes, PORTABLE)
    trt_plugins.register_plugins(nodes, PORTABLE)  # a second build in one process
    found = {node: {kind: launch(node, nodes[node], kind) for kind in ("fp32", "fp16", "bf16")} for node in nodes}
    defined = [hasattr(getattr(plugin.op, PLUGIN_NAMESPACE), node) for node in nodes]
    assert all(defined)
    print(json.dumps({"version": trt.__version__, "nodes": found}))


if __name__ == "__main__":
    main()
