"""``gpu.md``: the results of a run as a page, in Markdown, whole or as far as it has come."""

from collections.abc import Iterator

from img_deploy.benchmarks.on_gpu.goals import Goal, goals
from img_deploy.benchmarks.on_gpu.kernel_table import kernel_lines, recurrence_lines
from img_deploy.benchmarks.on_gpu.network_table import network_lines, profile_lines
from img_deploy.benchmarks.on_gpu.plan import baseline_failures, failures, name_of
from img_deploy.benchmarks.on_gpu.store import Document, entries
from img_deploy.benchmarks.on_gpu.words import Words
from img_deploy.benchmarks.results_page import framed


def page(document: Document) -> str:
    """Everything a reader needs to judge the figures, and to make them again."""
    say = Words(document["kind"])
    parts = (
        _head(document),
        _failures(document),
        _goals(document, say),
        _ceilings(document, say),
        _checks(document),
        kernel_lines(document, say),
        recurrence_lines(document, say),
        network_lines(document, say),
        profile_lines(document, say),
        _skipped(document),
        METHOD,
    )
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _head(document: Document) -> Iterator[str]:
    where = document["where"]
    machine, versions = where["machine"], where["versions"]
    yield from ("# Speed on an NVIDIA GPU", "")
    if document["kind"] == "cpu":
        yield "**Not yet run on a GPU.** What follows is the run on a CPU, as far as it goes: the same steps at tiny"
        yield "sizes, kernels under Triton's interpreter. It shows that they work and measures nothing."
        yield ""
    yield f"Made by `{document['command']}`; every figure is in `gpu.json`."
    if not document["complete"]:
        yield from ("", "**Not finished:** this is what there was when it was written last.")
    cards = "; ".join(
        f"{card['name']}, driver {card['driver']}, compute capability {card.get('compute_capability') or '?'}"
        for card in machine["gpus"]
    )
    yield ""
    yield f"- GPU: {cards or 'none'}."
    yield f"- Machine: {machine['cpu']}, {machine['cpus']} cores, {machine['platform']}."
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"- Versions: {listed}; CUDA {where.get('cuda') or 'none'}."
    yield f"- Commit {where['commit']}, {where['time']}."
    yield f"- Took {document.get('seconds', 0):.0f} of at most {document['budget']:.0f} s."
    yield "- Network: random weights; speed does not depend on what they are."
    yield ""


def _failures(document: Document) -> Iterator[str]:
    lines, others = failures(document), baseline_failures(document)
    if lines:
        yield from ("## Failed", "", *(f"- {line}" for line in lines), "")
    if others:
        yield from ("## Baselines that failed", "", *(f"- {line}" for line in others), "")


def _goals(document: Document, say: Words) -> Iterator[str]:
    def row(goal: Goal) -> str:
        sign = "at least" if goal.at_least else "at most"
        verdict = {None: say.nothing, True: "met", False: "missed"}[goal.met]
        return f"{goal.text} | {sign} {goal.wanted:g} {goal.unit} | {say.number(goal.got)} | {verdict}"

    yield from ("## Goals", "")
    yield from framed("goal, set for an H200 | wanted | measured | verdict", [row(goal) for goal in goals(document)])
    yield ""


def _ceilings(document: Document, say: Words) -> Iterator[str]:
    rows = []
    for entry in entries(document, "ceilings", outcome="done"):
        rate = entry["record"]["per_second"]
        copy = entry["name"] == "copy"
        what = "copy in device memory, bytes read and written" if copy else f"matrix product, {entry['name']}"
        rows.append(f"{what} | {'TB/s' if copy else 'TFLOP/s'} | {say.number(rate, 1e-12)}")
    if rows:
        yield from ("## Ceilings of this card", "", *framed("what | unit | median", rows), "")


def _checks(document: Document) -> Iterator[str]:
    rows = []
    for entry in entries(document, "checks", outcome="done"):
        record = entry["record"]
        rows.append(
            f"{entry['op']} | {entry['dtype']} | {_figure(record['difference'])} | "
            f"{record['absolute']:.0e} + {record['relative']:.0e} of the value | {_share(record['share'])} | "
            f"{record['checks']} | {'passed' if record['passed'] else 'FAILED'}"
        )
    if rows:
        head = "op | storage | largest difference | allowed | worst share of it | checks | verdict"
        yield from ("## Kernels against float64", "")
        yield from ("Ragged batches, fully masked samples among them; outputs held NaN before the launch.", "")
        yield from (*framed(head, rows), "")


def _figure(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.1e}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _skipped(document: Document) -> Iterator[str]:
    rows = [
        f"{step} | {name_of(entry)} | {entry['why']}"
        for step, found in document["steps"].items()
        for entry in found
        if entry["outcome"] == "skipped"
    ]
    if rows:
        yield from ("## Skipped", "", *framed("step | case | why", rows), "")


METHOD: tuple[str, ...] = (
    "## How it is measured",
    "",
    "- A kernel, its reference in eager PyTorch and the compiled reference are each captured in a CUDA graph over many",
    "  sets of inputs (weights too), together more than twice the L2 cache, or as many as 0.25 s of launches; a figure",
    "  is the median over replays, between CUDA events, of the time of one call. `launched` is eager PyTorch without",
    "  a capture, so with the host's launches. The GRU's reference is a loop over clips; what PyTorch's own GRU takes",
    "  stands in its table. The compiled reference is that of `torch.compile` at its best effort (`max-autotune`),",
    "  captured by us.",
    "- Bytes are those of every input read once and every output written once; FLOP those of the products in the",
    "  reference (slot attention: in the kernel, which needs fewer). The floor is what the slower of both would take",
    "  at the ceiling; `bound` says which it is, or `latency` below a tenth of it.",
    "- Whole network: features and words to logits (video encoder, query encoder, grounder), inputs on the GPU.",
    "  Latency is on the host's clock from the call to the end of its work; pairs/s from calls that do not wait for",
    "  each other. Versions are measured one after the other. `eager` computes as the published code does (packed",
    "  `nn.GRU`, three heads). `torch.compile` gets less to do: batches without padding, unpacked `nn.GRU`, one head;",
    "  `one graph` is captured with its GRUs as one CUDA graph like ours, `own graphs` is `max-autotune` as it comes.",
    "  Ratios are of medians, against the faster precision of eager and the faster way of `torch.compile`.",
    "- End to end is ours through the backend that serves answers: features in host memory, padding, copies both ways,",
    "  three graphs, and the span.",
    "- Full float32 products everywhere, no TF32. What failed its check, or was not checked, is not timed.",
)
