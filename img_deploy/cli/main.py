"""The ``img-deploy`` command: one file per subcommand, imported when its turn comes."""

import os
import re
import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from img_deploy.errors import ImgDeployError, one_line

COMMANDS = ("import", "export", "index", "infer", "serve", "inspect", "profile", "doctor", "train", "evaluate", "synth")
"""Each is ``img_deploy.cli.<name>_command``, which offers ``register(app)``."""

HELP = {"help_option_names": ["-h", "--help"]}
INTERRUPTED = 130
PIPE_CLOSED = 141


def _module(name: str) -> str:
    return f"img_deploy.cli.{name}_command"


class LazyGroup(TyperGroup):
    """Commands by name; a command's file is imported to run it or to show its help, not before."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return [name for name in COMMANDS if find_spec(_module(name))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        app = typer.Typer(add_completion=False, context_settings=HELP)
        import_module(_module(cmd_name)).register(app)
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command


class _Output:
    """Standard output whose errors name it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            error.filename = "standard output"
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            error.filename = "standard output"
            raise


app = typer.Typer(
    cls=LazyGroup,
    help="Train or import an IMG checkpoint, export it, and answer moment queries fast.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def _version(wanted: bool) -> None:
    if wanted:
        from img_deploy import __version__

        typer.echo(f"img-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted, 141 its reader left.

    An error is one line on standard error.
    """
    _prepare_streams()
    with redirect_stdout(_Output(sys.stdout)):
        code = _run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except OSError:  # Python would complain once more, and end with 120, when it flushes what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    for before, argument in pairwise(["img-deploy", *arguments]):
        # Of an unset variable, as a rule; as a path it would be the current folder.
        if not argument or re.fullmatch("--[a-z-]+=", argument):
            return _failed(f"{argument or before}: got nothing after it, expected a value", 2)
    try:
        code = app(args=arguments or ["--help"], prog_name="img-deploy", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ImgDeployError as error:
        return _failed(str(error), error.exit_code)
    except (BrokenPipeError, SystemExit) as error:
        # Typer, and Rich where it prints help, exit with 1 from it, as for a failure.
        if not any(isinstance(one, BrokenPipeError) for one in (error, error.__context__)):
            raise
        return PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _failed(f"{place}{error.strerror or error}", 1)
    except Exception as error:
        # Usage errors of Typer's parser: the home of their class has changed, what they offer has not.
        if not hasattr(error, "format_message"):
            raise
        return _failed(f"{error.format_message()} (see `{_path(error)} --help`)", getattr(error, "exit_code", 2))


def _prepare_streams() -> None:
    """Let standard output and error take any text, also where they are closed (``>&-``) or of an old encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return getattr(context, "command_path", None) or "img-deploy"


def _failed(message: str, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
