"""The whole way on synthetic data: import, generate, train, export, ask (``python -m img_deploy.benchmarks.demo``).

Every step is a command that a user can type; each is shown before it runs.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from img_deploy.cli.main import main as run_command
from img_deploy.errors import ImgDeployError

REFERENCE_RUN = Path("tests/golden/tiny_glove")
LEARNING = ("--dim", "32", "--steps", "300", "--learning-rate", "2e-3", "--set", "heads=4")
WITHOUT_DROPOUT = ("--set", "dropout=0.0", "--set", "evaluations=1")
"""So small a network learns the generated sounds in a third of the steps that it takes with the published dropout."""
ASKED = 6
"""Held-out queries whose answers are shown and drawn."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Import, generate, train, export and ask, in one go.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="Folder of the demo; replaced. Default: demo.")
    out = parser.parse_args(argv).out
    try:
        run(out)
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(out: Path) -> None:
    """The demo, in ``out``. Raises SystemExit with the code of a command that fails."""
    begun = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    import_a_run(out)
    learn(out)
    ask(out)
    print(f"\n{time.monotonic() - begun:.0f} s in all. Pictures: {out}/pictures/*.png, one per query above.")
    library = f"--features {out}/data/features/charades --durations {out}/data/dataset/charades/charades.json"
    print(f"A page to ask your own: {Path(sys.executable).parent}/img-deploy serve --bundle {out}/deploy {library}")


def import_a_run(out: Path) -> None:
    say("1. A run of the paper's code becomes a checkpoint, which `export` takes. Its weights are random.")
    if not REFERENCE_RUN.exists():
        print(f"({REFERENCE_RUN} is not here: left out)")
        return
    command("import", REFERENCE_RUN, "--dataset", REFERENCE_RUN / "dataset.pkl", "--out", out / "imported.pt")


def learn(out: Path) -> None:
    say("2. Synthetic data in the layout of Charades: some actions look alike and differ by their sound alone.")
    command("synth", out / "data", "--small", "--seed", "0")
    say("3. Training on it, with a tenth of the training videos held out to choose the checkpoint by.")
    task = ("--task", "charades", "--features", "i3d", "--data", out / "data")
    command("train", *task, "--out", out / "run", *LEARNING, *WITHOUT_DROPOUT)
    say("4. Export: every graph is compared with the network it came from before the bundle exists.")
    command("export", "--ckpt", out / "run/best.pt", "--out", out / "deploy")
    say("5. The bundle on the test videos, which neither training nor the choice of the checkpoint has seen.")
    command("evaluate", "--bundle", out / "deploy", *task)


def ask(out: Path) -> None:
    from img_deploy.annotations import read_samples

    say("6. Questions about test videos, and the moments beside the truth.")
    dataset = out / "data/dataset/charades"
    # The jsonl form: it carries the durations that the windows need.
    samples = read_samples(dataset / "charades_sta_test_tvr_format.jsonl")
    chosen = [sample.qid for sample in choose(out / "data", samples)]
    lines = (dataset / "charades_sta_test_tvr_format.jsonl").read_text(encoding="utf-8").splitlines()
    queries = out / "queries.jsonl"
    queries.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["qid"] in chosen), encoding="utf-8")
    features, answers = out / "data/features/charades", out / "answers.jsonl"
    command("infer", features, "--bundle", out / "deploy", "--queries", queries, "--out", answers, "--top-k", "3")
    rows = {row["qid"]: row for row in map(json.loads, answers.read_text(encoding="utf-8").splitlines())}
    compare([sample for sample in samples if sample.qid in chosen], rows, chance(samples))
    draw(out, [sample for sample in samples if sample.qid in chosen])


def choose(data: Path, samples: Sequence[Any]) -> list[Any]:
    """Some queries of every kind: decided by sound, silent, other."""
    from img_deploy.training.synthetic.queries import read_synthetic

    queries = read_synthetic(data).by_qid("tvr")
    groups: dict[str, list[Any]] = {}
    for sample in samples:
        query = queries[sample.qid]
        groups.setdefault("sound" if query.needs_sound else query.category, []).append(sample)
    turns = zip(*(groups.get(name, []) for name in ("sound", "silent", "other")), strict=False)
    return [sample for turn in turns for sample in turn][:ASKED]


def chance(samples: Sequence[Any]) -> float:
    """Mean IoU of answering with the whole video, in percent."""
    shares = [(end - start) / sample.duration for sample in samples for start, end in sample.windows]
    return 100 * sum(shares) / len(shares)


def compare(samples: Sequence[Any], rows: dict[int, dict[str, Any]], whole_video: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from img_deploy.training.metrics import best_iou

    table = Table("video", "query", "truth s", "found s", "IoU", "sound", title="moments found beside the truth")
    for sample in samples:
        row = rows[sample.qid]
        start, end, _ = row["pred_relevant_windows"][0]
        truth = ", ".join(f"{low:.1f}-{high:.1f}" for low, high in sample.windows)
        weight = "none" if row["importance"] is None else f"{row['importance']:.2f}"
        iou = best_iou((start, end), sample.windows)
        table.add_row(sample.vid, sample.query, truth, f"{start:.1f}-{end:.1f}", f"{iou:.2f}", weight)
    console = Console()
    console.print(table)
    console.print(
        f"sound: weight of the sound in the answer. Answering with the whole video has mean IoU {whole_video:.0f}%."
    )


def draw(out: Path, samples: Sequence[Any]) -> None:
    """One picture per query: truth, found moment, saliency of the heads, importance."""
    from img_deploy.features.folders import open_folder
    from img_deploy.features.kinds import kind_named
    from img_deploy.runtime.predictor import load_bundle
    from img_deploy.training.pictures import draw_answer

    predictor = load_bundle(out / "deploy")
    folder = open_folder(out / "data/features/charades", kind_named("i3d"), kind_named("panns"))
    for sample in samples:
        clips = folder.load(sample.vid)
        video = predictor.encode_video(clips.video, clips.audio, vid=sample.vid)
        answer = predictor.ground(
            video, predictor.encode_query(sample.query, qid=sample.qid), durations=sample.duration
        )
        draw_answer(answer, sample.windows, out / "pictures" / f"{sample.qid}.png")


def command(*parts: object) -> None:
    """Show a command, then run it."""
    words = [str(part) for part in parts]
    print(f"\n$ img-deploy {' '.join(f'{word!r}' if ' ' in word else word for word in words)}", flush=True)
    try:
        run_command(words)  # in this process: frameworks take seconds to load
    except SystemExit as end:
        if end.code:
            raise


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
