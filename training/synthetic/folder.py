"""Output folders that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from img_deploy.errors import InputError
from img_deploy.files import replacing_folder
from img_deploy.training.synthetic.queries import SIDECAR


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends well, and goes when it does not.

    Args:
        overwrite: replace an earlier synthetic dataset; nothing else is ever replaced, an empty folder excepted.
    Raises:
        InputError: ``out`` exists, or cannot be written.
    """
    try:
        _check_free(out, overwrite)
        with replacing_folder(out) as temporary:
            yield temporary
            _check_free(out, overwrite)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from None


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / SIDECAR).is_file():
        raise InputError(f"{out}: exists and is no synthetic dataset; choose another folder")
    if not overwrite:
        raise InputError(f"{out}: exists; choose another folder, or ask to overwrite it")
