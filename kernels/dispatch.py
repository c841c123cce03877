"""Which lowering a call of an op takes: the plain reference, or the registered custom op."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OP_NAMES = (
    "bigru",
    "slot_attention",
    "attention_block",
    "conv_block",
    "local_fusion",
    "global_fusion",
    "query_attention",
    "importance",
    "gate",
    "boundary_logits",
    "word_embedding",
    "best_spans",
)

_active: ContextVar[frozenset[str]] = ContextVar("img_deploy_active_ops", default=frozenset())


def is_active(name: str) -> bool:
    """Whether calls of op ``name`` go to ``torch.ops.img_deploy.<name>`` in this context."""
    return name in _active.get()


# What ``torch.compiler.assume_constant_result`` sets, without importing Dynamo: compiled code keeps the lowering that
# was active when it was traced, instead of breaking its graph at every op.
is_active._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def use_ops(names: Iterable[str] = OP_NAMES) -> Iterator[None]:
    """Send calls of the named ops to their custom ops (kernels on CUDA, single nodes in an exported graph)."""
    names = frozenset(names)
    if unknown := names - set(OP_NAMES):
        raise ValueError(f"unknown ops {sorted(unknown)}; known: {', '.join(OP_NAMES)}")
    token = _active.set(names)
    try:
        yield
    finally:
        _active.reset(token)
