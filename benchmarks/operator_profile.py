"""Where the time of a piece of work goes, by kind of operator, as PyTorch's profiler sees it."""

from collections.abc import Callable
from dataclasses import dataclass

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("matrix products", ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "einsum", "mv", "addmv", "dot")),
    ("random numbers", ("random_", "bernoulli_", "normal_", "randn", "rand", "uniform_")),
    ("softmax and norms", ("softmax", "layer_norm", "norm", "log_softmax", "logsumexp")),
    ("update of the weights", ("adamw", "optimizer", "foreach")),
    ("copies and new tensors", ("copy_", "cat", "stack", "empty", "zeros", "clone", "fill_", "zero_", "pad", "flip",
                                "index", "gather", "contiguous", "to", "resize_", "full", "embedding")),
    ("views", ("view", "slice", "select", "expand", "transpose", "unbind", "as_strided", "t", "permute", "reshape",
               "split", "chunk", "narrow", "resolve", "alias", "unsqueeze", "squeeze", "detach", "result")),
)  # fmt: skip
"""Kind -> beginnings of operator names; the first that fits counts. All others are element-wise or reductions."""
OTHER = "element-wise and sums"
AUTOGRAD = "autograd's bookkeeping"


@dataclass(frozen=True)
class OperatorProfile:
    """Of one piece of work on the CPU."""

    calls: int
    """Operator calls, nested ones included."""
    share: dict[str, float]
    """Kind -> share of the time inside operators."""
    kernels: dict[str, int]
    """Kind -> calls."""
    top: dict[str, float]
    """The slowest operators and their share of the time."""


def profile_operators(work: Callable[[], object], repeats: int = 1) -> OperatorProfile:
    """Run ``work`` under the profiler; figures are per repetition."""
    from torch.profiler import ProfilerActivity, profile

    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            work()
    time: dict[str, float] = {}
    count: dict[str, int] = {}
    slowest: dict[str, float] = {}
    calls = 0
    for event in profiler.key_averages():
        kind = kind_of(event.key)
        time[kind] = time.get(kind, 0.0) + event.self_cpu_time_total
        count[kind] = count.get(kind, 0) + event.count
        slowest[event.key] = slowest.get(event.key, 0.0) + event.self_cpu_time_total
        calls += event.count if event.key.startswith(("aten::", "mkldnn::")) else 0
    whole = sum(time.values()) or 1.0
    ordered = sorted(time, key=lambda kind: -time[kind])
    top = sorted(slowest, key=lambda name: -slowest[name])[:8]
    return OperatorProfile(
        calls // repeats,
        {kind: round(time[kind] / whole, 4) for kind in ordered},
        {kind: count[kind] // repeats for kind in ordered},
        {name: round(slowest[name] / whole, 4) for name in top},
    )


def kind_of(name: str) -> str:
    """Kind of an operator.

    >>> kind_of("aten::baddbmm"), kind_of("aten::addcmul_"), kind_of("aten::transpose"), kind_of("MulBackward0")
    ('matrix products', 'element-wise and sums', 'views', "autograd's bookkeeping")
    """
    if "Optimizer" in name or "adamw" in name:
        return "update of the weights"
    if name.startswith("mkldnn::_linear"):
        return "matrix products"
    if not name.startswith("aten::"):
        return AUTOGRAD
    bare = name.removeprefix("aten::").lstrip("_").removeprefix("native_")
    exact = next((kind for kind, names in KINDS if bare in names or bare.rstrip("_") in names), None)
    if exact is not None:
        return exact
    return next((kind for kind, names in KINDS for start in names if len(start) > 3 and bare.startswith(start)), OTHER)
