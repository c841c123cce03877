"""The page's tables of the whole network, and the profile of what holds it."""

from collections.abc import Iterator
from typing import Any

from img_deploy.benchmarks.on_gpu.goals import fastest_compiled, fastest_eager
from img_deploy.benchmarks.on_gpu.store import Document, entries
from img_deploy.benchmarks.on_gpu.words import Words
from img_deploy.benchmarks.results_page import framed

HEAD = (
    "pairs | clips | version | precision | p50 ms | p90 ms | pairs/s | end to end p50 ms | vs eager | "
    "vs torch.compile | pairs/s vs eager"
)

TOLD = (
    "Differences of logits, saliency and importance on ragged batches. `served` is ours through the backend that",
    "serves answers; `eager` is PyTorch itself in that precision: random weights amplify rounding, and ours may lose",
    "twice as much as it does.",
)


def network_lines(document: Document, say: Words) -> Iterator[str]:
    """Accuracy, then latency and throughput of every version."""
    yield from _accuracy(document)
    found = [entry for step in ("network", "compiled_network") for entry in entries(document, step, outcome="done")]
    if not found:
        return
    found.sort(key=lambda entry: (entry["batch"], entry["clips"]))  # versions stay in their order
    yield from ("## The whole network", "")
    yield from (*framed(HEAD, [_row(document, entry, say) for entry in found]), "")


def _row(document: Document, entry: dict[str, Any], say: Words) -> str:
    record, batch, clips = entry["record"], entry["batch"], entry["clips"]
    latency, throughput = record["latency"], record["throughput"]
    version = entry["version"] if entry["version"] in ("ours", "eager") else f"torch.compile, {entry['version']}"
    pairs = None if throughput is None else 1000 * batch / throughput["p50"]
    cells = [str(batch), str(clips), version, entry["precision"], say.p50(latency)]
    cells += [say.number(None if latency is None else latency["p90"]), say.number(pairs)]
    cells += [say.p50(record["end_to_end"]) if "end_to_end" in record else ""]
    if entry["version"] != "ours":
        return " | ".join([*cells, "", "", ""])
    eager, compiled = fastest_eager(document, batch, clips), fastest_compiled(document, batch, clips)
    streaming = fastest_eager(document, batch, clips, "throughput")
    cells += [_over(eager, latency, say), _over(compiled, latency, say), _over(streaming, throughput, say)]
    return " | ".join(cells)


def _over(other: float | None, own: Any, say: Words) -> str:
    return say.number(None if other is None or own is None else other / own["p50"])


def _accuracy(document: Document) -> Iterator[str]:
    rows = []
    for entry in entries(document, "accuracy", outcome="done"):
        record = entry["record"]
        cells = [entry["precision"]]
        for one in (record["ours"], record["served"], record["eager"]):
            cells += ["not a number" if one["largest"] is None else f"{one['largest']:.1e}"]
        cells += [f"{record['ours']['mean'] or 0:.1e}", f"{record['ours']['same_span']:.0%}"]
        cells += [f"{record['allowed']:.1e}", "passed" if record["passed"] else "FAILED"]
        rows.append(" | ".join(cells))
    if rows:
        head = "precision | largest: ours | served | eager | mean: ours | same span | allowed | verdict"
        yield from ("## The network against eager float32", "")
        yield from (*TOLD, "")
        yield from (*framed(head, rows), "")


def profile_lines(document: Document, say: Words) -> Iterator[str]:
    """The kernels of a run whose goal was missed, longest first."""
    for entry in entries(document, "profile", outcome="done"):
        record = entry["record"]
        yield from (f"## What holds {entry['batch']} pairs of {entry['clips']} clips, {entry['precision']}", "")
        if say.kind == "cpu":
            yield from (f"The profiler ran; its times: {say.nothing}.", "")
            continue
        yield f"{record['launches']:.0f} launches per replay, {record['busy_us']:.0f} us in kernels (those that run"
        yield from ("side by side count twice).", "")
        rows = [f"`{one['name']}` | {one['launches']:.1f} | {say.number(one['us'])}" for one in record["kernels"]]
        yield from (*framed("kernel | launches | us of all", rows), "")
