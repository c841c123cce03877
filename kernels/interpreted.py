"""Triton's interpreter (``TRITON_INTERPRET=1``) made to compute what a GPU computes, and ops sent to it.

For checks on machines without a GPU; nothing that serves an answer uses it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels; it reads this when it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def mend_interpreter() -> None:
    """Correct what Triton 3.6's interpreter does otherwise than a GPU, and give it what it lacks. Once in a process,
    before a kernel is imported."""
    _accept_scalars_as_loop_bounds()
    _compute_in_bfloat16()
    _patch_the_language_once()
    _leave_out_overflow_checks()
    _spell_types_of_tuples_when_asked()
    _make_types_once()
    _know_tanh()
    _take_gluon()


def _accept_scalars_as_loop_bounds() -> None:
    """Triton 3.6 interprets a loop bound by ``int(array)`` of shape [1], which NumPy 2.4 no longer converts."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def _compute_in_bfloat16() -> None:
    """Triton 3.6 keeps bfloat16 as uint16, multiplies tiles of it as those integers, and cuts digits off where a GPU
    rounds to nearest even."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    create_dot, cast = builder.create_dot, builder.cast_impl

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    def rounding_cast(self: Any, source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = np.where(np.isnan(source.data), 0x7FFF, rounded).astype(np.uint16)
        return interpreter.TensorHandle(rounded.reshape(source.data.shape), tl.bfloat16)

    builder.create_dot, builder.cast_impl = dot, rounding_cast


def _patch_the_language_once() -> None:
    """Triton 3.6 replaces every function of its language at each call of a helper: that takes most of a launch."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang
    seen: set[str] = set()

    def patch_once(fn: Any) -> Any:
        if fn.__module__ not in seen:
            seen.add(fn.__module__)
            patch(fn)  # its scope is dropped: nothing is put back
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch_once


def _leave_out_overflow_checks() -> None:
    """Triton 3.6 computes every int32 sum and product again in int64; no size that can be interpreted overflows."""
    from dataclasses import replace

    from triton.runtime.interpreter import interpreter_builder

    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)


def _spell_types_of_tuples_when_asked() -> None:
    """Triton 3.6 spells out the type of every shape that it makes, a quarter of the time; hardly one is read."""
    from triton.language import core

    kind: Any = core.tuple
    plain = kind.__init__

    def begin(self: Any, args: Any, type: Any = None) -> None:
        if type is None:
            self.values = list(args)
        else:
            plain(self, args, type)

    def type_of(self: Any) -> Any:
        if "_type" not in self.__dict__:
            self._type = core._type_for_tuple_values(self.values)
        return self._type

    kind.__init__ = begin
    kind.type = property(type_of, lambda self, type: self.__dict__.update(_type=type))


def _make_types_once() -> None:
    """Triton 3.6 checks and spells every value's type, and looks NumPy's up in a new table: a fifth of the time."""
    import math
    from functools import cache

    from triton.language import core
    from triton.runtime import interpreter

    block, tensor, numpy_type = core.block_type, core.tensor, interpreter._get_np_dtype
    check, kinds = block.__init__, {}

    def begin_block(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(size if type(size) is int else core._unwrap_if_constexpr(size) for size in shape)
        key = element_ty.name, sizes
        if key not in kinds:
            check(self, element_ty, list(sizes))
            kinds[key] = dict(self.__dict__)
        self.__dict__.update(kinds[key])

    @cache
    def shape_of(sizes: tuple[int, ...]) -> tuple[Any, Any]:
        return core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))

    def begin_tensor(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shape_of(tuple(type.shape.values) if type.is_block() else ())

    known = {}

    def numpy_type_of(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in known:
            known[name] = numpy_type(kind)
        return known[name]

    block.__init__, tensor.__init__, interpreter._get_np_dtype = begin_block, begin_tensor, numpy_type_of


def _know_tanh() -> None:
    """Triton 3.6 interprets no inline assembly; the kernels have one instruction of it."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    def tanh(_: Any, assembly: str, _constraints: str, values: Any, *_rest: Any) -> Any:
        assert assembly.startswith("tanh.approx.f32"), assembly
        result = interpreter.TensorHandle(np.tanh(values[0].data), tl.float32)
        return SimpleNamespace(get_result=lambda _index: result)

    interpreter.InterpreterBuilder.create_inline_asm = tanh


class _Gluon(ModuleType):
    """Triton's language under the names of Gluon's. Layouts say which thread holds what, and here there are none."""

    def __getattr__(self, name: str) -> Any:
        import triton.language as tl

        if name.endswith("Layout"):
            return lambda *_: None
        return getattr(tl, name)

    def arange(self, start: int, end: int, _layout: None) -> Any:
        return self.__getattr__("arange")(start, end)

    def zeros(self, shape: Any, dtype: Any, _layout: None) -> Any:
        return self.__getattr__("zeros")(shape, dtype)

    def full(self, shape: Any, value: float, dtype: Any, _layout: None) -> Any:
        return self.__getattr__("full")(shape, value, dtype)

    def convert_layout(self, value: Any, _layout: None) -> Any:
        return value

    def num_warps(self) -> int:
        return 1

    def allocate_shared_memory(self, dtype: Any, shape: Any, _layout: None, value: Any = None) -> Any:
        import numpy as np
        from triton.runtime import interpreter

        numbers = value.handle.data if value is not None else np.zeros(shape, interpreter._get_np_dtype(dtype))
        return _Shared(numbers.copy(), dtype)


class _Shared:
    """Shared memory of a block, or a part of it."""

    def __init__(self, numbers: Any, dtype: Any) -> None:
        self.numbers, self.dtype = numbers, dtype

    def store(self, value: Any) -> None:
        self.numbers[:] = value.handle.data

    def slice(self, start: int, length: int, dim: int = 0) -> "_Shared":
        return _Shared(self.numbers[(slice(None),) * dim + (slice(start, start + length),)], self.dtype)

    def permute(self, order: Any) -> "_Shared":
        return _Shared(self.numbers.transpose(order), self.dtype)

    def load(self, _layout: None) -> Any:
        import triton.language as tl
        from triton.runtime import interpreter

        kind = tl.block_type(self.dtype, list(self.numbers.shape))
        return tl.tensor(interpreter.TensorHandle(self.numbers.copy(), self.dtype), kind)


def _take_gluon() -> None:
    """Triton 3.6 interprets no Gluon: what it makes of a kernel is what it would make of Triton's own language."""
    import triton
    import triton.language as tl
    from triton.experimental import gluon
    from triton.experimental.gluon.language.nvidia import ampere

    gluon.jit, gluon.language = triton.jit, _Gluon("gluon")
    ampere.mma_v2 = lambda a, b, acc: tl.dot(a, b, acc)
    tl.core.block_type.layout = None


@contextmanager
def kernels_on_cpu() -> Iterator[None]:
    """Context in which ops under ``use_ops`` call their kernels on CPU tensors too, which only an interpreter runs."""
    from img_deploy.kernels.dispatch import is_active
    from img_deploy.kernels.op import Op

    kind: Any = Op
    plain = kind.__call__

    def call(op: Op, *args: Any, **kwargs: Any) -> Any:
        if is_active(op.name) and not kwargs.pop("dropout_p", 0.0):
            return op.run_kernel(*args, **kwargs)
        return plain(op, *args, **kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = plain
