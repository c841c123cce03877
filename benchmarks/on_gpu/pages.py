"""``gpu.md``: the results of both parts as a page, whole or as far as they have come."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from img_deploy.benchmarks.on_gpu.goals import Goal, failures, goals, matching
from img_deploy.benchmarks.on_gpu.record import DONE, SKIPPED, Entry, Results
from img_deploy.benchmarks.page import origin, table

NO_FIGURE = (
    "**Not yet run on a GPU.** What follows was run on a CPU: the same steps at tiny sizes, kernels under Triton's "
    "interpreter. It shows that they work, and measures nothing."
)
METHOD = (
    "- Whole network: features and words to logits (video encoder, query encoder, grounder), inputs on the GPU, random "
    "weights. *Latency* is on the host's clock from the call to the end of its work, *streaming* the time per call "
    "where calls do not wait for each other. `ours` is one CUDA graph. `eager` computes as the published code does "
    "(packed `nn.GRU`, three heads). `torch.compile` gets less to do: batches without padding, unpacked `nn.GRU`, one "
    "head; the kernels that it makes by default are captured with the GRUs as one CUDA graph, as ours are. Goals are "
    "held against the faster precision of eager.",
    "- Served: through the backend that serves answers, features (or clips and words that were encoded before) in host "
    "memory, padding, copies both ways, and the span. Pairs/s: from encoded clips, two calls under way.",
    "- Kernels: `ours` many times in one CUDA graph; `eager` PyTorch's reference with its launches. Full float32 "
    "products everywhere, no TF32.",
)


def page(parts: Sequence[Results]) -> str:
    """Everything a reader needs to judge the figures, and to make them again."""
    there = [(part, part_head) for part in parts if (part_head := part.head())]
    entries = [entry for part, _ in there for entry in part.entries()]
    lines = ["# Speed on an NVIDIA GPU", ""]
    if any(part_head["device"] == "cpu" for _, part_head in there):
        lines += [NO_FIGURE, ""]
    for part, part_head in there:
        seconds = part.seconds()
        took = "**did not end**" if seconds is None else f"took {seconds:.0f} s"
        lines += [f"Part {part_head['part']}: `{part_head['command']}`, {took}; figures: `{part.path.name}`.", ""]
        lines += [*origin(part_head["where"]), ""]
    lines += ["## Goals", "", *table(("goal", "wanted", "measured", "verdict"), map(goal_row, goals(entries)))]
    if wrong := failures(entries):
        lines += ["## Failed", "", *(f"- {line}" for line in wrong), ""]
    for title, step, head, rows in _TABLES:
        cells = [row for entry in matching(entries, step) for row in rows(entry)]
        if cells:
            lines += [f"## {title}", "", *table(head, cells)]
    if left := [(str(entry), entry.why) for entry in entries if entry.outcome not in (DONE,) and _untold(entry, wrong)]:
        lines += ["## Not measured", "", *table(("case", "why"), left)]
    return "\n".join([*lines, "## How it is measured", "", *METHOD]) + "\n"


def _untold(entry: Entry, wrong: Sequence[str]) -> bool:
    return entry.outcome == SKIPPED or f"{entry}: {entry.why}" not in wrong


def goal_row(goal: Goal) -> tuple[str, ...]:
    sign = "at least" if goal.at_least else "at most"
    return goal.text, f"{sign} {goal.wanted:,g} {goal.unit}", number(goal.got), goal.verdict


def number(value: float | None, scale: float = 1.0) -> str:
    """Three digits, or as many as a whole number has."""
    return "-" if value is None else f"{value * scale:,.0f}" if abs(value * scale) >= 1000 else f"{value * scale:.3g}"


def _p50(figures: Any, scale: float = 1.0) -> str:
    return number(None if figures is None else figures["p50"], scale)


def _size(entry: Entry) -> tuple[object, ...]:
    return entry.case["batch"], entry.case["clips"]


def _check_row(entry: Entry) -> Iterator[tuple[object, ...]]:
    record = entry.record
    cells = ("-" if record[name] is None else form % record[name] for name, form in _CHECK_CELLS.items())
    verdict = "passed" if record["passed"] else "FAILED"
    yield (entry.case["op"], entry.case["precision"], *cells, record["checks"], verdict)


_CHECK_CELLS = {"difference": "%.1e", "share": "%.2f"}


def _accuracy_row(entry: Entry) -> Iterator[tuple[object, ...]]:
    record = entry.record
    largest = [record[version]["largest"] for version in ("ours", "served", "eager")]
    cells = ["not a number" if value is None else f"{value:.1e}" for value in largest]
    same, verdict = f"{record['ours']['same_span']:.0%}", "passed" if record["passed"] else "FAILED"
    yield (entry.case["precision"], *cells, f"{record['allowed']:.1e}", same, verdict)


def _network_row(entry: Entry) -> Iterator[tuple[object, ...]]:
    record, batch = entry.record, entry.case["batch"]
    streaming = record["streaming"]
    pairs = None if streaming is None else 1000 * batch / streaming["p50"]
    yield (*_size(entry), entry.case["version"], entry.case["precision"], _p50(record["latency"]), number(pairs))


def _served_row(entry: Entry) -> Iterator[tuple[object, ...]]:
    record, batch = entry.record, entry.case["batch"]
    streaming = record["encoded_streaming"]
    pairs = None if streaming is None else 1000 * batch / streaming["p50"]
    yield (*_size(entry), *(_p50(record[name]) for name in ("whole", "encoded", "kept")), number(pairs))


def _profile_rows(entry: Entry) -> Iterator[tuple[object, ...]]:
    record = entry.record
    yield (*_size(entry), "all", number(record["launches"]), number(record["busy_us"]))
    for one in record["kernels"]:
        yield (*_size(entry), f"`{one['name']}`", f"{one['launches']:.1f}", number(one["us"]))


def _gru_rows(entry: Entry) -> Iterator[tuple[object, ...]]:
    for one in entry.record["calls"]:
        steps = [_p50(one[version], 1000 / one["steps"]) for version in ("ours", "cudnn")]
        yield (one["call"], entry.case["precision"], *steps)


def _op_rows(entry: Entry) -> Iterator[tuple[object, ...]]:
    for one in entry.record["calls"]:
        yield (entry.case["op"], one["call"], _p50(one["ours"], 1000), _p50(one["eager"], 1000))


def _training_row(entry: Entry) -> Iterator[tuple[object, ...]]:
    yield (*_size(entry), _p50(entry.record["ours"]), _p50(entry.record["published"]))


def _race_row(entry: Entry) -> Iterator[tuple[object, ...]]:
    yield (entry.case["op"], entry.case["precision"], entry.record["launches"])


_NETWORK = ("pairs", "clips", "version", "precision", "latency p50 ms", "streaming pairs/s")
_TABLES: tuple[tuple[str, str, tuple[str, ...], Callable[[Entry], Iterator[tuple[object, ...]]]], ...] = (
    ("The whole network", "network", _NETWORK, _network_row),
    (
        *("Served", "served"),
        ("pairs", "clips", "from features, ms", "from encoded clips, ms", "from clips kept on the GPU, ms", "pairs/s"),
        _served_row,
    ),
    ("torch.compile", "compiled", _NETWORK, _network_row),
    (
        *("Kernels against float64", "checks"),
        ("op", "storage", "largest difference", "share of the tolerance", "checks", "verdict"),
        _check_row,
    ),
    (
        *(
            "The network against eager float32: largest difference, as a share of an output's largest value above 1",
            "accuracy",
        ),
        ("precision", "ours", "served", "eager", "allowed", "same span", "verdict"),
        _accuracy_row,
    ),
    (
        "What a replay spends its time on",
        "profile",
        ("pairs", "clips", "kernel", "launches", "us of all"),
        _profile_rows,
    ),
    (
        *("The GRU, microseconds per step of a layer", "gru"),
        ("layer", "storage", "ours", "nn.GRU (cuDNN)"),
        _gru_rows,
    ),
    ("A training step, ms", "training", ("pairs", "clips", "ours", "published way"), _training_row),
    ("Kernels one by one, microseconds", "kernels", ("op", "call", "ours", "eager"), _op_rows),
    ("Other sizes", "sizes", _NETWORK, _network_row),
    ("Race check", "race", ("op", "storage", "kernels run"), _race_row),
)
