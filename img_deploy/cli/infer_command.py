"""``img-deploy infer``: ask a folder of features."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from img_deploy.cli.work_options import Engine, EngineOption, ThreadsOption, WorkersOption


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
    batch_size: Annotated[int, typer.Option(min=1, help="Most videos, queries or pairs per run.")] = 16,
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
    from img_deploy.cli.answering import Output, answer
    from img_deploy.runtime.request import AskOptions, Request

    if rebuild:
        from img_deploy.cli.reporting import Reporter
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
    answer(request, Output(out, format and format.value, rows, resume, best), strict, quiet)
