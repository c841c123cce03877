"""What every feature file is held to, and one line for everything that can be wrong with it."""

import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import numpy as np
import numpy.typing as npt

from img_deploy.errors import FeatureError, one_line
from img_deploy.features.paths import is_remote

Array = npt.NDArray[np.generic]
Where = str | PathLike[str]

BROKEN = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, OSError, EOFError, zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError),
)
"""What numpy, zipfile, torch and pickle raise on content cut short, garbled or made by something else."""


@contextmanager
def reading(where: Where, expected: str) -> Iterator[None]:
    """Turns whatever goes wrong while a feature file is read into one FeatureError line that names it."""
    name = str(where)
    try:
        if not is_remote(name):
            _refuse_special(name, expected)
        yield
    except FeatureError:
        raise
    except FileNotFoundError:
        got = f"a link to {os.readlink(name)}, where there is nothing" if os.path.islink(name) else "no such file"
        raise FeatureError(f"{name}: {got}, expected {expected}") from None
    except IsADirectoryError:
        raise FeatureError(f"{name}: got a directory, expected {expected}") from None
    except NotADirectoryError:
        raise FeatureError(f"{name}: got a file, expected {expected}") from None
    except PermissionError:
        raise FeatureError(f"{name}: no permission to read it; change its mode or its owner") from None
    except MemoryError:
        raise FeatureError(f"{name}: does not fit into memory, expected {expected}") from None
    except BROKEN as error:
        raise _damaged(name, error, expected) from None


def _refuse_special(name: str, expected: str) -> None:
    """Raises FeatureError for a pipe, socket or device, which would keep a reader waiting for ever."""
    mode = os.stat(name).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FeatureError(f"{name}: got a pipe or a device, expected {expected}")


def _damaged(name: str, error: Exception, expected: str) -> FeatureError:
    if os.path.isfile(name) and not os.path.getsize(name):
        return FeatureError(f"{name}: got an empty file (0 bytes), expected {expected}; copy or extract it again")
    reason = one_line((isinstance(error, OSError) and error.strerror) or error, 120)
    return FeatureError(
        f"{name}: got a damaged or foreign file ({reason}), expected {expected}; copy or extract it again"
    )


def clip_shape(shape: tuple[int, ...], where: Where) -> tuple[int, int]:
    """(T, W) of an array of shape (T, W) or (T, 1, .., 1, W), as ActivityNet's I3D files have.

    (0, 0) for an empty array without axes to tell. Raises FeatureError for any other number of axes.
    """
    if len(shape) == 1 and shape[0] == 0:
        return 0, 0
    if len(shape) < 2 or any(size != 1 for size in shape[1:-1]):
        raise FeatureError(f"{where}: got shape {shape}, expected (clips, width)")
    return shape[0], shape[-1]


def check_dtype(dtype: np.dtype, where: Where) -> None:
    """Raises FeatureError unless ``dtype`` is one of real numbers."""
    if dtype.hasobject:
        raise FeatureError(
            f"{where}: got an array of Python objects, expected numbers; "
            "save it with a numeric dtype (such files can carry code and are not opened)"
        )
    if dtype.kind not in "fiu":
        raise FeatureError(f"{where}: got dtype {dtype}, expected floating point or integer numbers")
