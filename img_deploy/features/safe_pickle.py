"""Reading a pickled dictionary of numpy arrays and plain values without trusting it.

Python's unpickler calls whatever a pickle names. This one knows the few names that pickled numpy arrays use and
gives each a harmless stand-in of its own: nothing that the file names is imported or called, not even numpy's
own reconstruction functions. What a stand-in collects (shape, dtype, bytes) becomes an array at the end.
"""

import collections
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from img_deploy.errors import FeatureError
from img_deploy.features.checks import reading


class _Refused(Exception):
    """The pickle names something that is not part of a plain numpy array; the message is its name."""


class _Sealed(type):
    """Keeps a pickle from changing the stand-ins themselves, which its BUILD instruction could."""

    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        raise _Refused(f"a change to {cls.__name__.lstrip('_')}")


class _Dtype(metaclass=_Sealed):
    """Stands for ``numpy.dtype(code)`` followed by its state, of which only the byte order matters."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype:
        if len(self.code) < 2 or self.code[0] not in "bfiu" or not self.code[1:].isdigit():
            raise _Refused(f"an array of dtype {self.code!r}")
        order: Literal["<", ">", "="] = "<" if self.order == "<" else ">" if self.order == ">" else "="
        return np.dtype(self.code).newbyteorder(order)


class _Array(metaclass=_Sealed):
    """Stands for ``numpy.ndarray``: as a name inside the pickle, and as the array rebuilt from its state."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, *_arguments: Any) -> None:
        self.shape: Any = None

    def __setstate__(self, state: Any) -> None:
        _version, self.shape, self.dtype, self.fortran, self.data = state

    def array(self) -> npt.NDArray[np.generic]:
        """The array, sharing the bytes read from the file. Raises _Refused where the parts do not fit."""
        if not isinstance(self.shape, tuple) or not isinstance(self.dtype, _Dtype):
            raise _Refused("an array without its data")
        dtype = self.dtype.dtype()
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if not isinstance(data, bytes | bytearray):
            raise _Refused(f"an array made of {type(data).__name__}")
        if not all(type(size) is int and size >= 0 for size in self.shape):
            raise _Refused(f"an array of shape {self.shape!r}"[:80])
        if math.prod(self.shape) * dtype.itemsize != len(data):
            raise _Refused(f"an array of shape {self.shape} with {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(self.shape, order="F" if self.fortran else "C")


class _Reconstruct(metaclass=_Sealed):
    """Stands for ``numpy.core.multiarray._reconstruct(ndarray, (0,), b'b')``: an array to be filled."""

    def __new__(cls, *_arguments: Any) -> Any:
        return _Array()


class _FromBuffer(metaclass=_Sealed):
    """Stands for ``numpy.core.numeric._frombuffer(data, dtype, shape, order)`` of pickle protocol 5."""

    def __new__(cls, data: Any, dtype: Any, shape: Any, order: Any) -> Any:
        array = _Array()
        array.__setstate__((1, shape, dtype, order == "F", data))
        return array


class _Scalar(metaclass=_Sealed):
    """Stands for ``numpy.core.multiarray.scalar(dtype, bytes)``: a numpy number becomes a Python number."""

    def __new__(cls, dtype: Any, data: Any) -> Any:
        array = _Array()
        array.__setstate__((1, (), dtype, False, data))
        return array.array().item()


class _Bytes(metaclass=_Sealed):
    """Stands for ``bytes()`` and ``_codecs.encode(text, 'latin1')``, the forms of bytes in protocols before 3."""

    def __new__(cls, text: str = "", _encoding: str = "latin1") -> Any:
        return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    _known: ClassVar[dict[tuple[str, str], type]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Bytes,
        ("collections", "OrderedDict"): collections.OrderedDict,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
        **{(module, "bytes"): _Bytes for module in ("builtins", "__builtin__")},
        **{(module, "set"): set for module in ("builtins", "__builtin__")},
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, _pid: Any) -> NoReturn:
        raise _Refused("a persistent id")


def load_arrays(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a pickled dictionary, by key; pickled by any Python and any numpy.

    Args:
        path: a pickle of ``{str: array}``.

    Returns:
        Read-only arrays of real numbers, any shape, dtype as stored.

    Raises:
        FeatureError: unreadable, truncated, or anything else in it than arrays of numbers in a dictionary.
            Nothing that such a file names is run.
    """
    path = Path(path)
    with _admitting(path, "a pickled dictionary of numpy arrays"):
        content = _load(path)
        for key, value in content.items():
            if not isinstance(value, _Array):
                raise FeatureError(
                    f"{path}: got a {type(value).__name__} under key {key!r}, expected a numpy array"[:300]
                )
        return {key: value.array() for key, value in content.items()}


def load_plain(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A pickled dictionary of plain values: numbers, text, lists, tuples, sets, dictionaries and numpy arrays.

    Raises:
        FeatureError: as :func:`load_arrays`. Nothing that such a file names is run.
    """
    path = Path(path)
    with _admitting(path, "a pickled dictionary of plain values and numpy arrays"):
        content = _load(path)
        made: dict[int, Any] = {}
        return {key: _plain(value, made) for key, value in content.items()}


@contextmanager
def _admitting(path: Path, expected: str) -> Iterator[None]:
    """Turns a refusal, and whatever goes wrong while a pickle is read, into one FeatureError line."""
    try:
        with reading(path, expected):
            yield
    except _Refused as refused:
        raise FeatureError(
            f"{path}: got a pickle that holds {refused}, expected {expected} and nothing else; "
            "it was refused and nothing in it was run"
        ) from None


def _load(path: Path) -> dict[str, Any]:
    with open(path, "rb") as stream:
        try:
            content = _PlainUnpickler(stream, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise ValueError(str(error)) from None
    if not isinstance(content, dict):
        raise ValueError(f"a pickled {type(content).__name__}")
    for key in content:
        if not isinstance(key, str | bytes):
            raise ValueError(f"the key {key!r} is not text"[:80])
    return {_text(key): value for key, value in content.items()}


def _plain(value: Any, made: dict[int, Any]) -> Any:
    """The value with the arrays inside it put in place of their stand-ins.

    ``made`` holds what was made of each container so far: a pickle may name one list a billion times.
    """
    if isinstance(value, type | _Dtype):
        raise _Refused("the name of a type")
    if not isinstance(value, _Array | dict | list | tuple):
        return value
    if id(value) not in made:
        if isinstance(value, _Array):
            made[id(value)] = value.array()
        elif isinstance(value, dict):
            made[id(value)] = {key: _plain(item, made) for key, item in value.items()}
        else:
            made[id(value)] = type(value)(_plain(item, made) for item in value)
    return made[id(value)]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
