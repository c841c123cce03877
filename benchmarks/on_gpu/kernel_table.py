"""The page's tables of kernels, and of the GRU's loop."""

from collections.abc import Iterator
from typing import Any

from img_deploy.benchmarks.on_gpu.recurrence_figures import CUDA, us_per_step, winner
from img_deploy.benchmarks.on_gpu.roofline import position
from img_deploy.benchmarks.on_gpu.store import Document, entries, record_of
from img_deploy.benchmarks.on_gpu.words import Words
from img_deploy.benchmarks.results_page import framed

HEAD = (
    "op | form | pairs | clips | storage | ours us | eager us | compiled us | launched us | vs eager | vs compiled | "
    "vs launched"
)
ROOFLINE = "op | form | pairs | storage | KB | MFLOP | GB/s | of copy | TFLOP/s | of product | of the floor | bound"


def kernel_lines(document: Document, say: Words) -> Iterator[str]:
    """Times, then positions below the ceilings."""
    found = list(entries(document, "kernels", outcome="done"))
    if not found:
        return
    yield from ("## Kernels one by one", "")
    yield from framed(HEAD, [_times(document, entry, say) for entry in found])
    compiled = _compiled_alone(document, found, say)
    if compiled:
        yield from ("", "Compiled at another length than it is timed at above:", "", *compiled)
    yield from ("", "### Below the ceilings", "")
    yield from framed(ROOFLINE, [_roofline(document, entry, say) for entry in found])
    notes = [f"- {entry['op']} {entry['form']}: {note}." for entry in found for note in entry["record"]["notes"]]
    yield from ("", *notes, "")


def _times(document: Document, entry: dict[str, Any], say: Words) -> str:
    record = entry["record"]
    match = {name: entry[name] for name in ("op", "form", "batch", "clips", "dtype")}
    compiled = (record_of(document, "compiled_kernels", **match) or {}).get("compiled")
    ours, eager, launched = record["ours"], record["eager"], record["eager_launched"]
    cells = [entry["op"], entry["form"], str(entry["batch"]), str(entry["clips"]), entry["dtype"]]
    cells += [say.p50(figures, 1000) for figures in (ours, eager, compiled, launched)]
    cells += [say.times(other, ours) for other in (eager, compiled, launched)]
    return " | ".join(cells)


def _compiled_alone(document: Document, timed: list[dict[str, Any]], say: Words) -> list[str]:
    """Compiled references whose size was not timed: those of the GRU, whose loop would take minutes to compile."""
    names = ("op", "form", "batch", "clips", "dtype")
    known = {tuple(entry[name] for name in names) for entry in timed}
    rows = [
        " | ".join([*(str(entry[name]) for name in names), say.p50(entry["record"]["compiled"], 1000)])
        for entry in entries(document, "compiled_kernels", outcome="done")
        if tuple(entry[name] for name in names) not in known
    ]
    return framed("op | form | pairs | clips | storage | compiled us", rows) if rows else []


def _roofline(document: Document, entry: dict[str, Any], say: Words) -> str:
    record = entry["record"]
    found = position(record, entry["dtype"], document)
    cells = [entry["op"], entry["form"], str(entry["batch"]), entry["dtype"]]
    cells += [f"{record['bytes'] / 1024:,.0f}", f"{say.number(record['flops'], 1e-6)}"]
    if found is None:
        return " | ".join(cells + [say.nothing] * 6)
    cells += [say.number(found.bytes_per_second, 1e-9), say.percent(found.of_copy)]
    cells += [say.number(found.flops_per_second, 1e-12), say.percent(found.of_product)]
    return " | ".join([*cells, say.percent(found.of_floor), found.bound])


def recurrence_lines(document: Document, say: Words) -> Iterator[str]:
    """Microseconds per step, and a line that says which loop wins where."""
    found = list(entries(document, "recurrence", outcome="done"))
    if not found:
        return
    yield from ("## The GRU's loop over time", "")
    yield from ("Microseconds per step; `layer` is the whole op, the input's matrix product included.", "")
    head = "form | samples | clips | storage | Triton one_row | Triton batch_tile | CUDA C++ | layer | nn.GRU | fastest"
    rows = []
    for entry in found:
        record, clips = entry["record"], entry["clips"]
        loops = record["loops"]
        steps = [us_per_step((loops.get(name) or {}).get("ms"), clips) for name in ("one_row", "batch_tile", CUDA)]
        steps += [us_per_step(record["layer"]["ms"], clips), us_per_step(record["cudnn"], clips)]
        cells = [entry["form"], str(entry["batch"]), str(clips), entry["dtype"], *map(say.number, steps)]
        rows.append(" | ".join([*cells, winner(loops) or say.nothing]))
    yield from (*framed(head, rows), "", verdict(found, say), "")
    reasons = {one["why"] for entry in found for one in entry["record"]["loops"].values() if one["why"]}
    yield from (*(f"- Not timed: {reason}." for reason in sorted(reasons)), "")


def verdict(found: list[dict[str, Any]], say: Words) -> str:
    """Which of Triton and CUDA C++ wins where."""
    won: dict[str, list[str]] = {}
    for entry in found:
        name = winner(entry["record"]["loops"])
        if name is not None:
            side = CUDA if name == CUDA else "Triton"
            won.setdefault(side, []).append(f"{entry['form']} at {entry['batch']} in {entry['dtype']}")
    if not won:
        return f"Triton or CUDA C++: {say.nothing if say.kind == 'cpu' else 'not both were timed'}."
    return " ".join(f"{side} wins: {'; '.join(cases)}." for side, cases in won.items())
