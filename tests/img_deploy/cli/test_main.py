"""The command line itself: help, version, and how a command ends."""

import io
import os
import subprocess
import sys

import pytest
import typer

from img_deploy import __version__
from img_deploy.cli import main as cli
from img_deploy.errors import BackendError, FeatureError


def run(*arguments, **options):
    command = [sys.executable, "-m", "img_deploy.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_version_and_help(run_cli):
    """A user could not find out what there is."""
    assert run_cli("--version").out == f"img-deploy {__version__}\n"
    for arguments in ((), ("--help",), ("-h",)):
        shown = run_cli(*arguments)
        assert shown.code == 0
        assert "infer" in shown.out
    assert "--clip-seconds" in run_cli("infer", "--help").out


def test_help_is_quick_and_loads_nothing_heavy():
    """`img-deploy --help` would take seconds, for packages it does not use."""
    code = (
        "import sys, time; from img_deploy.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as left: print(left.code, [n for n in ('torch', 'onnx', 'onnxruntime', 'lightning', 'numpy',"
        " 'matplotlib', 'nltk', 'triton') if n in sys.modules], time.process_time(), sep=';')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    left, heavy, took = done.stdout.splitlines()[-1].split(";")
    assert (left, heavy) == ("0", "[]"), done.stderr
    assert float(took) < 4, "seconds of processor time, whatever else the machine does meanwhile"


def test_the_package_imports_at_once():
    """`import img_deploy` in a product would cost seconds before anything is asked, or pull in Lightning and ONNX."""
    code = (
        "import sys, time; before = time.process_time(), len(sys.modules)\n"
        "import img_deploy\n"
        "print(time.process_time() - before[0], len(sys.modules) - before[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    took, modules = map(float, done.stdout.split())
    assert took < 0.5, "seconds of processor time"
    assert modules < 20, "it should load nothing but itself until a name is used"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["infer"], "Missing argument 'FEATURES'"),
        (["infer", "x", "--no-such"], "No such option: --no-such"),
        (["infer", "x", "--top-k", "0"], "'--top-k'"),
        (["infer", "x", "--nms", "2"], "'--nms'"),
        (["infer", "x", "--batch-size", "many"], "'--batch-size'"),
        (["infer", "x", "--format", "xml"], "'--format'"),
        (["train", "--out", ""], "--out: got nothing after it"),
        (["train", "--out=", "--steps", "1"], "--out=: got nothing after it"),
        (["infer", "", "--query", "x"], "infer: got nothing after it"),
    ],
)
def test_wrong_usage_is_one_line_and_2(run_cli, arguments, told):
    """A script would see a wall of text, or exit code 1 for what is its own mistake."""
    done = run_cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert told in done.err


def broken(error):
    def register(app):
        @app.command("infer")
        def command() -> None:
            raise error

    return register


@pytest.fixture
def raising(monkeypatch):
    """Function: let the infer command raise an error."""
    from img_deploy.cli import infer_command

    return lambda error: monkeypatch.setattr(infer_command, "register", broken(error))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FeatureError("a.npy: got two\nlines"), 2, "error: a.npy: got two lines\n"),
        (BackendError("it failed"), 1, "error: it failed\n"),
        (PermissionError(13, "Permission denied", "a.npy"), 1, "error: a.npy: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.BadParameter("got 3"), 2, "error: Invalid value: got 3 (see `img-deploy infer --help`)\n"),
    ],
)
def test_errors_end_in_one_line_and_their_code(run_cli, raising, error, code, line):
    """A user's mistake would end in a traceback, or in a code that says something else."""
    raising(error)
    done = run_cli("infer")
    assert (done.code, done.err) == (code, line)


def test_a_mistake_of_the_program_is_not_hidden(raising):
    """A bug would look like a user's mistake, and could not be found."""
    raising(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["infer"])


@pytest.mark.parametrize("arguments", ["--help", "infer --help", "--version", "doctor"])
def test_a_closed_pipe_is_silent(arguments):
    """`img-deploy ... | head` would end in a traceback, or look like a failure."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "img_deploy.cli.main", *arguments.split()]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.PIPE_CLOSED, "")


INFER = "infer {features} --bundle {bundle} -q w001 --backend torch --threads 1 --quiet"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the full device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["--version", "doctor", INFER, f"{INFER} --format jsonl"])
def test_a_full_disk_is_told_of_standard_output(bundles, features, arguments, unbuffered):
    """`img-deploy ... > FILE` on a full disk would not say what it could not write, or end with Python's code 120."""
    arguments = arguments.format(features=features.folder, bundle=bundles["tiny_glove"])
    command = [sys.executable, "-m", "img_deploy.cli.main", *arguments.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream_leads_nowhere(run_cli, monkeypatch, name):
    """`img-deploy infer ... >&-` (a service without a terminal) would end in an AttributeError."""
    monkeypatch.setattr(sys, name, None)
    assert run_cli("inspect", "no such file").code == 2


def test_an_old_encoding_takes_any_text(run_cli, monkeypatch):
    """A query in Japanese, on a machine whose locale is C, would end in a traceback."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run_cli("--version").code == 0
    print("日本", file=stream, flush=True)
    assert stream.buffer.getvalue().endswith(b"\\u65e5\\u672c\n")


def test_each_command_offers_what_main_needs():
    """A command would be listed and then fail to start."""
    from importlib import import_module

    context = object()
    group = cli.LazyGroup(name="img-deploy")
    names = group.list_commands(context)
    assert "infer" in names
    for name in names:
        assert callable(import_module(f"img_deploy.cli.{name}_command").register)
        assert group.get_command(context, name).name == name
    assert group.get_command(context, "main") is None
