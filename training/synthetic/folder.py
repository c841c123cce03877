"""Output folders that appear whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from img_deploy.errors import InputError
from img_deploy.training.synthetic.queries import SIDECAR


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name when the block ends well, and goes when it does not.

    Args:
        overwrite: replace an earlier synthetic dataset; nothing else is ever replaced, an empty folder excepted.
    Raises:
        InputError: ``out`` exists, or cannot be written.
    """
    out = Path(out).absolute()
    _check_free(out, overwrite)
    name = f".{out.name}.{secrets.token_hex(4)}"
    temporary, earlier = out.with_name(f"{name}.partial"), out.with_name(f"{name}.earlier")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield temporary
        _check_free(out, overwrite)
        if out.exists():
            os.replace(out, earlier)
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(f"{error.filename or out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / SIDECAR).is_file():
        raise InputError(f"{out}: exists and is no synthetic dataset; choose another folder")
    if not overwrite:
        raise InputError(f"{out}: exists; choose another folder, or ask to overwrite it")
