"""``serve.md`` of what ``serve.json`` holds."""

from collections.abc import Iterator

from img_deploy.benchmarks.page import Document, origin, table

CLIENTS = 16
SHARES = (0.2, 0.5, 0.8)
"""Of the capacity, in the open loop."""
SPACINGS = {"even": "at equal distances", "chance": "at random times"}
LOADS = ["load", "answered/s", "p50 ms", "p99 ms", "server's CPU ms each", "mean batch", "batches by size"]
LOADS += ["generator's cores", "refused"]


def page(result: Document) -> str:
    """The page. ``result`` may lack parts that were not measured."""
    lines = ["# The server under load", "", "Every figure is in `serve.json`.", ""]
    for name, part in result.items():
        write = _speed if name.startswith("speed") else {"memory": _memory, "answers": _answers}[name]
        lines += write(part)
        busy = f"other programs kept {part['other_programs_cores']:.1f} of its cores busy"
        lines += [f"Made by `{part['command']}`.", "", *origin(part["environment"], busy), ""]
    return "\n".join(lines)


def _speed(found: Document) -> Iterator[str]:
    yield from (f"## Speed, videos of {found['clips']} clips", "")
    yield from (
        "Full-size network, random weights. A request asks one sentence of one video that is encoded already. Each "
        "server has both cores, and shares them with the generator.",
        "",
    )
    rows = [_row("one client", found["unloaded"])]
    for number, one in enumerate(found["rounds"], 1):
        rows += [_row(f"{CLIENTS} clients, round {number}", one["batched"])]
        rows += [_row(f"the same, one request at a time, round {number}", one["one_at_a_time"])]
    for one in found["open_loop"]:
        rows.append(_row(f"{one['rate']}/s {SPACINGS[one['spacing']]}, {one['share']:.0%} of capacity", one))
    yield from table(LOADS, rows)
    ratios = found["p99_over_unloaded_p50"]
    yield from (
        f"Batched throughput is {found['ratio']} times that of one request at a time ({CLIENTS} clients, median); "
        f"the CPU time of a request falls by a factor of {found['cpu_ratio']}. At {SHARES[-1]:.0%} of capacity "
        f"p99 is {ratios['even']} times the p50 of one client where requests come at equal distances, and "
        f"{ratios['chance']} times where they come at random times. The capacity, which is what {CLIENTS} clients "
        "are answered, and that p50 were measured right before each rate.",
        "",
    )


def _row(name: str, load: Document) -> tuple[object, ...]:
    sizes = ", ".join(f"≤{size}: {number}" for size, number in load["batches_up_to"].items() if number)
    keys = ("per_second", "p50_ms", "p99_ms", "server_cpu_ms", "mean_batch")
    return name, *(load[key] for key in keys), sizes, f"{load['generator_cores']:.2f}", load["refused"]


def _memory(found: Document) -> Iterator[str]:
    parts = found["parts"]
    yield from ("## Memory", "")
    yield from (
        f"A small network, {CLIENTS} clients: resident memory of a server of two workers, and of the process that "
        "started them, after so many requests.",
        "",
    )
    yield from table(("requests", "MiB", "answered/s"), [(p["requests"], p["mib"], p["per_second"]) for p in parts])
    grown = parts[-1]["mib"] - parts[0]["mib"]
    since = parts[-1]["requests"] - parts[0]["requests"]
    yield from (f"Growth over the last {since} requests: {grown:.1f} MiB.", "")


def _answers(found: Document) -> Iterator[str]:
    yield from ("## Answers in company", "")
    yield from (
        f"{found['requests']} requests of {found['kinds']} kinds (one, several or all videos, with sound and without, "
        f"of any length; several moments, the best of all, curves), 64 at once, in batches of {found['mean_batch']} "
        "pairs on average, against each asked alone. All moments, ids and ranks are the same; "
        f"{found['same_bytes']} replies are the same to the last byte, and the largest difference of a number in the "
        f"others is {found['largest_difference']:.1e} (of 1, or of the number where that is larger).",
        "",
    )
