"""The page of a measurement of training steps, in Markdown."""

from typing import Any

from img_deploy.benchmarks.results_page import framed

LOOP_HEAD = (
    "shape | ms by the clock, p50 | least | ms of CPU time, p50 | samples/s by the clock | at the least | "
    "by CPU time | anchor | times anchor, by the clock | by CPU time"
)


def training_page(result: dict[str, Any]) -> str:
    """Everything a reader needs to judge the figures, and to make them again."""
    machine, versions, cases = result["where"]["machine"], result["where"]["versions"], result["cases"]
    busy = ", ".join(str(case["neighbours"]) for case in cases)
    lines = [
        "# Speed of a training step on a CPU",
        "",
        f"Made by `{result['command']}`; every figure is in `training_step.json`.",
        "",
        f"- Machine: {machine['cpu']}, {machine['cpus']} cores, {machine['platform']}; threads: "
        f"{result['where']['threads']}. Other programs kept {busy} cores busy meanwhile (by shape): times are too "
        "long by as much.",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"- Commit {result['where']['commit']}, {result['where']['time']}.",
        "- Data: planted, I3D (1024) and PANNs (2048) features, all videos of one length, GloVe variant; fp32; all "
        "three heads, every loss, clipping and AdamW.",
        "- Anchor: the paper's own code at the same shape, measured elsewhere on two cores. It was not run beside "
        "these figures.",
        "",
        "## The loop of `img-deploy train`",
        "",
        "From step to step: loading, Lightning and logs included, evaluations not. *By CPU time*: all "
        "threads added up, as if on one core of their own; by the clock the step also waits for other programs. "
        "Samples/s are of the median step.",
        "",
        *framed(LOOP_HEAD, [_loop_row(case) for case in cases]),
        "",
        "## Step by step, beside the published way",
        "",
        "Single steps without Lightning, in turns (A B, B A, ...), both from the same weights; their losses were equal "
        "before the timing. *Published way*: packed `nn.GRU`, PyTorch's own linear layers, depthwise convolution and "
        "random numbers, AdamW tensor by tensor; all else is this project's, so it is no measurement of the paper's "
        "code. The ratio is the median over rounds of its time over ours in the same round, in brackets its "
        "quartiles.",
        "",
        *framed(
            "shape | version | p50 ms | load | forward | backward | update | loading, share | operator calls | ratio",
            [row for case in cases for row in _step_rows(case)],
        ),
        "",
        "## Where the time goes",
        "",
        "Shares of the time inside operators of one step of this project (PyTorch's profiler), and how many calls.",
        "",
        *framed(
            f"kind | {' | '.join(_name(case) for case in cases)}",
            [
                f"{kind} | {' | '.join(_kind_cell(case, kind) for case in cases)}"
                for kind in cases[0]["operators"]["this project"]["share"]
            ],
        ),
        "",
        "The slowest operators: "
        + "; ".join(
            f"{_name(case)}: "
            + ", ".join(f"`{name}` {share:.0%}" for name, share in list(_own(case)["top"].items())[:4])
            for case in cases
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _loop_row(case: dict[str, Any]) -> str:
    wall, cpu, shape = case["loop"], case["loop_cpu"], case["shape"]
    speeds = [1e3 * shape["batch"] / time for time in (wall["p50"], wall["low"], cpu["p50"])]
    cells = [f"{wall['p50']:.0f}", f"{wall['low']:.0f}", f"{cpu['p50']:.0f}", *(f"{speed:.0f}" for speed in speeds)]
    times = [speed / shape["anchor"] for speed in (speeds[0], speeds[2])]
    return " | ".join([_name(case), *cells, f"{shape['anchor']:g}", *(f"{ratio:.1f}" for ratio in times)])


def _step_rows(case: dict[str, Any]) -> list[str]:
    rows = []
    for name, stages in case["stages"].items():
        whole = sum(stages.values())
        ratio = case["ratio"]
        compared = "" if name != "this project" else f"{ratio['p50']:.2f} ({ratio['p25']:.2f}-{ratio['p75']:.2f})"
        cells = " | ".join(f"{value:.1f}" for value in stages.values())
        rows.append(
            f"{_name(case)} | {name} | {case['bare'][name]['p50']:.0f} | {cells} | {stages['load'] / whole:.1%} | "
            f"{case['operators'][name]['calls']:,} | {compared}"
        )
    return rows


def _kind_cell(case: dict[str, Any], kind: str) -> str:
    own = _own(case)
    return f"{own['share'].get(kind, 0.0):.0%} ({own['kernels'].get(kind, 0):,})"


def _own(case: dict[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = case["operators"]["this project"]
    return own


def _name(case: dict[str, Any]) -> str:
    shape = case["shape"]
    return f"D = {shape['dim']}, B = {shape['batch']}, L = {shape['clips']}"
