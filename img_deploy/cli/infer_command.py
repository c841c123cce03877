"""``img-deploy infer``: ask a folder of features."""

import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img_deploy.cli.work_options import Engine, EngineOption, ThreadsOption, WorkersOption
from img_deploy.errors import ImgDeployError, InputError

if TYPE_CHECKING:
    from img_deploy.cli.answer_table import AnswerTable
    from img_deploy.cli.reporting import Reporter
    from img_deploy.runtime.asking import Session
    from img_deploy.runtime.lots import Request
    from img_deploy.runtime.ranking import BestWriter
    from img_deploy.runtime.writers import RowWriter


class OutputFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.command("infer")(infer)


def infer(
    features: Annotated[
        str,
        typer.Argument(
            metavar="FEATURES",
            help="A dataset's feature folder (data/features/charades), one with video/*.npy and audio/*.npy, or an "
            "index made by `img-deploy index`.",
        ),
    ],
    query: Annotated[
        list[str] | None, typer.Option("--query", "-q", help="A sentence to look for in every video; repeatable.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="A file of queries: plain lines, for every video; or *_qid.txt, tvr jsonl or ActivityNet JSON, whose "
            "queries name their video."
        ),
    ] = None,
    video: Annotated[list[str] | None, typer.Option(help="Ask this video only; repeatable. Default: all.")] = None,
    bundle: Annotated[Path, typer.Option(help="Folder made by `img-deploy export`.")] = Path("deploy"),
    backend: Annotated[
        str,
        typer.Option(
            help="auto (the fastest that works here), or one that `img-deploy doctor` lists, such as onnxruntime, "
            "torch or, on a device, torch:cpu."
        ),
    ] = "auto",
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="First build TensorRT engines for this machine, where the bundle has none."),
    ] = False,
    threads: ThreadsOption = None,
    engine: EngineOption = Engine.LOCAL,
    workers: WorkersOption = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1 << 20, help="Most videos, queries or pairs per run.")] = 16,
    top_k: Annotated[int, typer.Option(min=1, help="Most moments per answer.")] = 1,
    nms: Annotated[
        float, typer.Option(min=0, max=1, help="Greatest overlap (IoU, 0 to 1) of two moments of an answer.")
    ] = 0.5,
    durations: Annotated[
        Path | None,
        typer.Option(
            help="Video lengths in seconds: charades.json, ActivityNet JSON, tvr jsonl or csv `vid,seconds`. Default: "
            "those in --queries, if any."
        ),
    ] = None,
    clip_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds per clip of the feature files, where no length is known. Default: not known."),
    ] = None,
    glove: Annotated[
        Path | None, typer.Option(help="A GloVe text file: its words are known beside the bundle's own.")
    ] = None,
    text_features: Annotated[
        Path | None,
        typer.Option(
            help="Token features by query id (qid_N.npy, qidN.pt), for bundles that take them. Default: the dataset's "
            "own in FEATURES."
        ),
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Give the N best moments of each query over all videos, ranked by how many times likelier than chance "
            "they are, instead of an answer for each video.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        OutputFormat | None,
        typer.Option(help="Default: table; with --out what its name ends in, else jsonl.", show_default=False),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=0, help="Table rows per query; 0 for all. Default: 50 on a terminal, all in a pipe."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. Default: standard output.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same options (jsonl with --out).")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first video or query that cannot be used (exit code 2).")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Tell on standard error what is skipped, no more.")] = False,
) -> None:
    """Find the moments that sentences describe, in a folder of video (and audio) features or an index of one.

    Answers come from the head that fuses sight and sound; a video without audio features is answered from the
    visual head. The table of one query asked of many videos begins with the best moments: those whose score is
    the most times that of a random span (scores alone favour short videos).

    Exit code 0: something was answered; 2: nothing could be, or the input is wrong.
    """
    from img_deploy.cli.reporting import Reporter
    from img_deploy.runtime.lots import AskOptions, Request

    if rebuild:
        from img_deploy.export.engine_rebuild import rebuild_engines

        note = Reporter(quiet).note
        built = rebuild_engines(bundle, lambda step: note(f"{step} ..."))
        note(f"{bundle}: {len(built)} engines built" if built else f"{bundle}: its engines fit this machine")
    request = Request(
        features=features,
        bundle=bundle,
        queries=query or (),
        queries_file=queries,
        videos=video or (),
        durations=durations,
        clip_seconds=clip_seconds,
        glove=glove,
        text_features=text_features,
        backend=backend,
        threads=threads,
        engine=engine.value,
        workers=workers,
        options=AskOptions(top_k, nms, batch_size),
    )
    _answer(request, Output(out, format, rows, resume, best), strict, quiet)


@dataclass(frozen=True)
class Output:
    """Where answers go. ``format`` None: a table, or what the name of ``out`` ends in, or jsonl."""

    out: Path | None = None
    format: OutputFormat | None = None
    table_rows: int | None = None
    resume: bool = False
    best: int | None = None
    """The so many best moments of each query over all videos, instead of an answer for each video."""

    @property
    def chosen(self) -> OutputFormat:
        """Raises InputError for a table in a file, and for resuming what is not a jsonl file."""
        format = self.format or (OutputFormat.TABLE if self.out is None else _by_suffix(self.out))
        if format is OutputFormat.TABLE and self.out is not None:
            raise InputError(f"{self.out}: got a table to write, expected jsonl, csv or json; give another --format")
        if format is OutputFormat.TABLE and self.resume:
            raise InputError("resume: only a jsonl file can be resumed; give --format jsonl and --out FILE")
        if self.best is not None and self.resume:
            raise InputError(
                "resume: a ranking (--best) is written at the end, there is nothing to go on with; drop --resume"
            )
        return format

    def writer(self, session: "Session") -> "AnswerTable | RowWriter | BestWriter":
        """Raises InputError where it cannot be written."""
        from img_deploy.cli.answer_table import AnswerTable
        from img_deploy.runtime.ranking import BestWriter
        from img_deploy.runtime.writers import RowWriter

        writer: AnswerTable | RowWriter
        if self.chosen is OutputFormat.TABLE:
            search = bool(session.plan.shared) and len(session.plan.videos) > 1
            writer = AnswerTable(best_first=search or self.best is not None, limit=self.table_rows)
        else:
            format, resumable = self.chosen.value, self.best is None
            sources = session.sources() if self.out is not None and resumable else None
            settings = session.settings()
            writer = RowWriter(
                self.out, format, resume=self.resume, settings=settings, sources=sources, resumable=resumable
            )
        return writer if self.best is None else BestWriter(writer, self.best)


def _by_suffix(out: Path) -> OutputFormat:
    known = {".csv": OutputFormat.CSV, ".json": OutputFormat.JSON}
    return known.get(out.suffix, OutputFormat.JSONL)


def _answer(request: "Request", output: Output, strict: bool, quiet: bool) -> None:
    """Answer a request, and tell on standard error how it goes.

    Raises:
        InputError: something is wrong with the request, nothing could be answered, or (``strict``) something was
            not usable.
        BackendError: the backend failed. Answers so far are in ``OUT.partial`` (jsonl) or in the table.
    """
    from img_deploy.cli.reporting import Reporter
    from img_deploy.runtime.asking import open_session

    rows = output.out is None and output.chosen is not OutputFormat.TABLE
    on_terminal = rows and sys.stdout.isatty()  # a bar would tear the rows
    reporter = Reporter(quiet=quiet, strict=strict, bar=not on_terminal)
    with reporter:
        session = open_session(request, reporter.reading)
    for note in session.notes():
        reporter.note(note)
    if strict and session.plan.missing:
        raise InputError(f"--strict: {session.plan.notes[-1]}")
    # Of a single pair nothing is left when it is skipped: what is wrong with it is the answer.
    reporter.strict = strict or len(session.plan) == 1
    writer = output.writer(session)
    try:
        _write_answers(session, writer, output.out, reporter)
    except (KeyboardInterrupt, ImgDeployError):
        partial = output.out and output.out.parent / f"{output.out.name}.partial"
        if partial and partial.exists() and output.best is None and output.chosen is OutputFormat.JSONL:
            reporter.tell(f"stopped: the answers so far are in {partial}; run the same command with --resume to go on")
        raise


def _write_answers(
    session: "Session", opened: "AnswerTable | RowWriter | BestWriter", out: Path | None, reporter: "Reporter"
) -> None:
    from img_deploy.runtime.ranking import BestWriter

    total, begin = len(session.plan), time.perf_counter()
    with opened as writer, reporter:
        reporter.begin(total, len(writer.done))
        for answers in session.answers(writer.done, reporter):
            writer.write(answers)
            if isinstance(writer, BestWriter):
                reporter.leader(writer.leader())
        if not writer.rows:
            raise InputError(f"nothing could be answered: all {total} pairs of a video and a query were skipped")
    took, new = time.perf_counter() - begin, writer.rows - len(writer.done)
    reporter.summary()
    for what, why in session.workers.notes().items():
        reporter.note(f"note: {what}: {why}")
    before = f" ({len(writer.done)} before)" if writer.done else ""
    skipped = f"; {reporter.errors} videos or queries skipped" if reporter.errors else ""
    place = f"; written to {out}" if out else ""
    speed = f"{took:.1f} s ({new / took:,.1f}/s)"
    reporter.note(f"{writer.rows} of {total} pairs answered{before} in {speed}{skipped}{place}")
