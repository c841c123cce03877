"""Errors that reach the user: one clear line each, and the exit code it ends the command with.

A message names what was wrong, what was received, what was expected and what to do, e.g.
``video/3MSZA.npy: got width 2048, the bundle wants 1024 (I3D); pass --features clip+sf``.
"""

from typing import Any


def one_line(text: object, most: int | None = None) -> str:
    """Text that keeps to its line and moves no cursor: line breaks and control characters become single spaces.

    Args:
        text: also an error, whose message it is then, or the name of its class where it has none.
        most: characters that are kept.

    >>> one_line("a.npy: got\\n  two lines")
    'a.npy: got two lines'
    >>> one_line(KeyError())
    'KeyError'
    """
    words = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return (words or (type(text).__name__ if isinstance(text, BaseException) else ""))[:most]


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can spell it: not half a character, as a lone surrogate of JSON or a file name of other bytes is.

    >>> is_utf8("a"), is_utf8("\\udcff")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def validation_problems(error: Any) -> str:
    """Every problem of a ``pydantic.ValidationError`` in one line: where, what is wrong, and what was found there."""
    found = []
    for one in error.errors(include_url=False):
        where = ".".join(map(str, one["loc"]))
        what = one["msg"].removeprefix("Value error, ")
        got = "" if one["type"] == "missing" else f" (got {one['input']!r:.60})"  # else all that surrounds it
        found.append(f"{where}: {what}{got}" if where else what)
    return one_line("; ".join(found))


class ImgDeployError(Exception):
    """The command could not be done (exit code 1)."""

    exit_code = 1


class InputError(ImgDeployError):
    """What the user gave is wrong: a path, an option, a file's content (exit code 2)."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration is inconsistent. The message lists every problem found, not only the first."""


class CheckpointError(InputError):
    """A checkpoint or a training run cannot be read, or its tensors do not fit its configuration."""


class BundleError(InputError):
    """A bundle is missing, damaged, tampered with or newer than this program."""


class FeatureError(InputError):
    """A feature file or folder is missing, unreadable or of the wrong shape, type or content."""


class AnnotationError(InputError):
    """An annotation or duration file cannot be understood."""


class QueryError(InputError):
    """A query is empty, too long or of the wrong kind for the bundle."""


class BackendError(ImgDeployError):
    """A backend was asked for that this machine cannot run, or it failed while running."""


class VerificationError(ImgDeployError):
    """An exported artifact does not agree with the eager fp32 network."""
