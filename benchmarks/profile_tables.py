"""The tables of a profile, by column, from its JSON."""

from collections.abc import Callable, Sequence
from typing import Any

from img_deploy.benchmarks.page import Document, ms

STAGES = ("read", "encode_video", "encode_query", "ground", "decode")
STARTS = ("interpreter", "imports", "load", "first_answer", "total")
Columns = dict[str, list[str]]


def latency_columns(profile: Document) -> Columns:
    """Latencies of whole batches, in milliseconds."""
    return _times(profile, "latency", "ratio")


def asked_columns(profile: Document) -> Columns:
    """The same of further queries on videos that are encoded already."""
    return _times(profile, "asked", "asked_ratio")


def stage_columns(profile: Document) -> Columns:
    """Stages, medians in milliseconds."""
    cases = profile["cases"]
    stages = {name.removeprefix("encode_"): [ms(case["stages"][name]) for case in cases] for name in STAGES}
    return _names(profile) | stages


def start_columns(profile: Document) -> Columns:
    """Starts, medians in milliseconds."""
    starts, short = profile["starts"], _short(profile)
    columns = {"backend": [short(start["backend"]) for start in starts]}
    for name in STARTS:
        columns[name.replace("_", " ")] = [ms(start["cold"][name]) for start in starts]
    return columns | {"warm": [ms(start["warm"]["total"]) for start in starts]}


def _times(profile: Document, times: str, ratio: str) -> Columns:
    def column(cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [cell(case) for case in profile["cases"]]

    return _names(profile) | {
        "p50": column(lambda case: ms(case[times]["p50"])),
        "p90": column(lambda case: ms(case[times]["p90"])),
        "p99": column(lambda case: ms(case[times]["p99"])),
        "pairs/s": column(lambda case: f"{1000 * case['batch'] / case[times]['p50']:.1f}"),
        "speedup": column(lambda case: "-" if case[ratio] is None else f"{case[ratio]['p50']:.2f}x"),
        "n": column(lambda case: str(case[times]["count"])),
    }


def _names(profile: Document) -> Columns:
    short = _short(profile)
    cases: Sequence[dict[str, Any]] = profile["cases"]
    return {
        "backend": [short(case["backend"]) for case in cases],
        "batch": [str(case["batch"]) for case in cases],
        "clips": [str(case["clips"]) for case in cases],
    }


def _short(profile: Document) -> Callable[[str], str]:
    """Takes the device off a backend's label where there is one device alone."""
    devices = {case["backend"].partition(":")[2] for case in profile["cases"]}
    ending = f":{min(devices)}" if len(devices) == 1 else ""
    return lambda label: label.removesuffix(ending)
