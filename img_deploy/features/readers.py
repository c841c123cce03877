"""One reader per kind of feature file, and for each a look at its shape that reads no data where the format allows.

Every reader gives [T, W] as stored (any real dtype; files of shape (T, 1, 1, W) lose the empty axes) and raises
FeatureError with one line naming the file for anything else. None of them runs code out of a file.
"""

import math
import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

import numpy as np

from img_deploy.errors import FeatureError, one_line
from img_deploy.features.checks import BROKEN, Array, Where, check_dtype, clip_shape, reading
from img_deploy.features.paths import is_remote, local_copy, path_of, start_of
from img_deploy.features.safe_pickle import load_arrays

_NPY = "a NumPy .npy file"
_NPZ = "an .npz archive"
_PT = "a tensor saved by torch"
_MAGIC = b"\x93NUMPY"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What files of torch before 1.6 start with; newer ones are zip archives."""


def read_array(path: Where) -> Array:
    """[T, W] of a .npy, .npz or .pt file, by its suffix. Raises FeatureError, also for any other suffix."""
    with local_copy(path_of(path)) as file:
        return _by_suffix(file)[0](file)


def shape_of(path: Where) -> tuple[int, int]:
    """(T, W) of a .npy, .npz or .pt file from its header. Raises FeatureError as the reader would."""
    if is_remote(path) and str(path).lower().endswith(".npy"):
        start, size = start_of(path_of(path))
        with reading(path, _NPY):
            return clip_shape(_header(BytesIO(start), size, str(path)).shape, path)
    with local_copy(path_of(path)) as file:
        return _by_suffix(file)[1](file)


def _by_suffix(path: Where) -> tuple[Any, Any]:
    suffixes = {".npy": (read_npy, npy_shape), ".npz": (read_npz, npz_shape), ".pt": (read_pt, pt_shape)}
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise FeatureError(f"{path}: got a {suffix or 'nameless'} file, expected {', '.join(suffixes)}")
    return suffixes[suffix]


_MOST_UNPACKED = 1 << 31
"""Bytes of an array in an archive, which a few packed bytes may promise: five days of SlowFast features."""


_PARSING = Lock()
"""Held while NumPy parses a header: Python's parser can fail (SystemError) where threads meet in it."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int
    """Bytes before the data."""

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def _header(stream: IO[bytes], size: int, where: str) -> _Header:
    """The header at the front of .npy data of ``size`` bytes, with the data known to be all there."""
    magic = stream.read(8)
    if not magic:
        raise FeatureError(f"{where}: got an empty file (0 bytes), expected {_NPY}; copy or extract it again")
    if not magic.startswith(_MAGIC):
        raise FeatureError(f"{where}: got {_guess(magic)}, expected {_NPY}")
    # Version 3 is for the field names of structured arrays, which are no features.
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(magic[6])
    if read is None:
        raise FeatureError(f"{where}: got .npy version {magic[6]}, expected 1 or 2")
    with _PARSING:
        shape, fortran, dtype = read(stream)
    check_dtype(dtype, where)
    if any(axis < 0 for axis in shape):
        raise FeatureError(f"{where}: got shape {shape}, expected (clips, width)")
    header = _Header(shape, fortran, dtype, stream.tell())
    if header.offset + header.size > size:
        raise FeatureError(
            f"{where}: got {size - header.offset} bytes of data, expected {header.size} for shape {shape}; "
            "the file is cut short, copy it again"
        )
    return header


def _guess(start: bytes) -> str:
    """What a file that is no .npy file probably is, from its first bytes."""
    if start.startswith(b"PK"):
        return "a zip archive (.npz or .pt?)"
    if start.startswith(b"\x80"):
        return "a pickle (such files can carry code and are not opened)"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"a text file (it starts with {start.decode('ascii')!r})"
    return "something else"


def npy_shape(path: Where) -> tuple[int, int]:
    """(T, W) of a .npy file; its data are not read. Raises FeatureError."""
    return clip_shape(_npy_header(path).shape, path)


def _npy_header(path: Where) -> _Header:
    with reading(path, _NPY), open(path, "rb") as stream:
        return _header(stream, os.fstat(stream.fileno()).st_size, os.fspath(path))


def read_npy(path: Where) -> Array:
    """A .npy file: I3D, CLIP, PANNs, text and plain features.

    Returns:
        [T, W], read-only and memory-mapped, dtype as stored.

    Raises:
        FeatureError: not a .npy file of real numbers in that shape, or cut short.
    """
    header = _npy_header(path)
    shape = clip_shape(header.shape, path)
    order = "F" if header.fortran else "C"
    with reading(path, _NPY):
        if not header.size:
            return np.empty(shape, header.dtype)
        mapped = np.memmap(path, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload]
        return mapped.reshape(shape)


def npy_from_bytes(content: bytes, where: str) -> Array:
    """:func:`read_npy` of a file that is in memory; ``where`` is what messages call it, no file of that name is asked.

    Returns:
        [T, W], read-only, dtype as stored.

    Raises:
        FeatureError: as :func:`read_npy`.
    """
    try:
        header = _header(BytesIO(content), len(content), where)
        shape = clip_shape(header.shape, where)
        flat = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
        order = "F" if header.fortran else "C"
        return flat.reshape(header.shape, order=order).reshape(shape)  # type: ignore[call-overload]
    except BROKEN as error:
        raise FeatureError(
            f"{where}: got damaged or foreign content ({one_line(error, 120)}), expected {_NPY}"
        ) from None


def npz_shape(path: Where, key: str = "features") -> tuple[int, int]:
    """(T, W) of one array of an .npz file; its data are not read. Raises FeatureError."""
    with reading(path, _NPZ), zipfile.ZipFile(path) as archive:
        member = _member(archive, key, path)
        with archive.open(member) as stream:
            return clip_shape(_header(stream, member.file_size, f"{path}[{key}]").shape, path)


def read_npz(path: Where, key: str = "features") -> Array:
    """One array of an .npz file: SlowFast features.

    Returns:
        [T, W], read-only, dtype as stored.

    Raises:
        FeatureError: not an .npz file, no array of that key, not real numbers in that shape, or damaged.
    """
    with reading(path, _NPZ), zipfile.ZipFile(path) as archive:
        member = _member(archive, key, path)
        with archive.open(member) as stream:
            header = _header(stream, member.file_size, f"{path}[{key}]")
            shape = clip_shape(header.shape, path)
            if header.size > _MOST_UNPACKED:
                raise _too_large(path, header.size)
            data = stream.read(header.size)
            stream.read(1)  # the checksum is looked at once the member's end is reached
        order = "F" if header.fortran else "C"
        return np.frombuffer(data, header.dtype).reshape(header.shape, order=order).reshape(shape)  # type: ignore[call-overload]


def _too_large(path: Where, size: int) -> FeatureError:
    return FeatureError(f"{path}: unpacks to {size / 2**30:.0f} GiB; no video has so many clips")


def _member(archive: zipfile.ZipFile, key: str, path: Where) -> zipfile.ZipInfo:
    name = f"{key}.npy"
    if name not in archive.namelist():
        keys = sorted(member.removesuffix(".npy") for member in archive.namelist())
        raise FeatureError(f"{path}: got the keys {', '.join(keys[:5]) or '(none)'}, expected {key!r}")
    return archive.getinfo(name)


def pt_shape(path: Where) -> tuple[int, int]:
    """(T, W) of a .pt file; its data are mapped, not read, unless torch saved it in its old format."""
    return clip_shape(tuple(_tensor(path).shape), path)


def read_pt(path: Where) -> Array:
    """A tensor saved by torch: InternVideo2 and LLaMA features.

    Returns:
        [T, W], dtype as stored (bfloat16 becomes float32).

    Raises:
        FeatureError: not a torch file, anything but one tensor of real numbers in it, or cut short. Files with
            code in them are refused and never run (``weights_only``).
    """
    tensor = _tensor(path)
    shape = clip_shape(tuple(tensor.shape), path)
    import torch

    with reading(path, _PT):
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        array = tensor.resolve_neg().numpy().reshape(shape)
    check_dtype(array.dtype, path)
    return array


def _tensor(path: Where) -> Any:
    import torch

    with reading(path, _PT):
        with open(path, "rb") as stream:
            start = stream.read(len(_OLD_TORCH))
        if not start:
            raise EOFError
        if not start.startswith(b"PK") and start != _OLD_TORCH:
            raise FeatureError(f"{path}: got {_guess(start[:8])}, expected {_PT}")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=start != _OLD_TORCH)
        except pickle.UnpicklingError as error:
            # torch's own message advises to switch the protection off.
            if "GLOBAL" in str(error):
                raise FeatureError(
                    f"{path}: got a file with objects other than tensors, expected {_PT}; "
                    "it was refused and nothing in it was run"
                ) from None
            raise ValueError("not a torch file") from None
    plain = isinstance(content, torch.Tensor) and content.layout == torch.strided
    if not plain or content.is_meta or content.is_nested:
        raise FeatureError(f"{path}: got a {type(content).__name__} without plain data, expected {_PT}")
    if content.nbytes > _MOST_UNPACKED:  # rows may share their data: a small file, but no end of clips
        raise _too_large(path, content.nbytes)
    return content.detach()


def read_pickle(path: Where) -> dict[str, Array]:
    """A pickle of the features of many videos, by video id: ``VGGish.pickle``.

    Returns:
        [T, W] each, read-only, dtype as stored.

    Raises:
        FeatureError: as :func:`~img_deploy.features.safe_pickle.load_arrays`; or an array of another shape.
    """
    with local_copy(path_of(path)) as file:
        arrays = load_arrays(file)
    return {vid: array.reshape(clip_shape(array.shape, f"{path}[{vid}]")) for vid, array in arrays.items()}
