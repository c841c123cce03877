"""One run of the study: train, then score the best checkpoint by what decides each query."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.learning.plan import SHARES, Places, Run, train_config
from img_deploy.files import write_text
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.model.network import IMGNetwork
from img_deploy.training.answers import Answers, answers_of_network
from img_deploy.training.config import CONFIG_FILE
from img_deploy.training.data import GroundingData
from img_deploy.training.metrics import summarise
from img_deploy.training.synthetic.queries import SyntheticQuery, read_synthetic
from img_deploy.training.tasks import open_task
from img_deploy.training.train import train

GROUPS = {
    "all": lambda query: True,  # noqa: ARG005
    "look-alike, sound decides": lambda query: query.needs_sound,
    "silent action": lambda query: query.category == "silent" and query.audio == "real",
    "own look and sound": lambda query: query.category == "other" and query.audio == "real",
    "sight can answer": lambda query: query.sight and query.audio != "none",
    "audio is noise": lambda query: query.audio == "noise",
    "no audio": lambda query: query.audio == "none",
}


def measure(run: Run, places: Places, steps: int) -> dict[str, Any]:
    """Train one network, or go on with it, and score it on the test videos, with real and with noised audio."""
    config = train_config(run, places, steps)
    folder = places.run(run)
    result = train(config, folder, resume=(folder / CONFIG_FILE).exists())
    checkpoint = Checkpoint.load(result.best)
    network = checkpoint.network()
    noise = {}
    for share in SHARES if not run.share and run.name in ("full", "no importance") else ():
        noised = places.data(run.seed, share)
        noise[str(share)] = scores_by_group(network, checkpoint, noised, places.cache(run.seed))
    return {
        "run": vars(run),
        "where": environment(threads=1),
        "test": scores_by_group(network, checkpoint, Path(config.data), places.cache(run.seed)),
        "noised_test": noise,
        "best_step": result.card["best_step"],
        "samples_per_second": result.card["samples_per_second"],
        "history": result.card["history"],
        "training_queries": result.card["data"]["training_queries"],
    }


def scores_by_group(
    network: IMGNetwork, checkpoint: Checkpoint, folder: Path, cache: Path
) -> dict[str, Mapping[str, Any]]:
    """Per group of test queries: their number, each head's scores, the mean importance."""
    task = open_task("charades", "i3d", folder)
    data = GroundingData(task, "glove", ("test",), cache, vocabulary=checkpoint.vocabulary)
    answers = answers_of_network(network, data, data.queries["test"])
    made = read_synthetic(folder).by_qid("txt")
    facts = [made[sample.qid] for sample in answers.queries.samples]
    return {
        name: _group(answers, np.array([bool(inside(fact)) for fact in facts])) | _chance(facts, inside, name)
        for name, inside in GROUPS.items()
        if any(inside(fact) for fact in facts)
    }


def _group(answers: Answers, rows: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"queries": int(rows.sum())}
    for head in answers.windows:
        ious = answers.ious(head)[rows]
        if (answered := ~np.isnan(ious)).any():
            found[head] = summarise(ious[answered])
    importance = answers.importance[rows]
    heard = importance[~np.isnan(importance)]
    found["importance"] = float(heard.mean()) if len(heard) else math.nan
    return found


def _chance(facts: list[SyntheticQuery], inside: Any, name: str) -> dict[str, Any]:
    """What an answer scores that knows how moments are placed in videos, but not this video: another query's."""
    if name != "all":
        return {}
    from img_deploy.training.metrics import window_iou

    fractions = np.array([(q.cut_window[0] / q.duration, q.cut_window[1] / q.duration) for q in facts if inside(q)])
    ious = [window_iou(np.roll(fractions, k, axis=0), fractions) for k in range(1, len(fractions))]
    return {"chance": summarise(np.concatenate(ious))}


def measure_and_keep(run: Run, places: Places, steps: int) -> None:
    """:func:`measure`, its result written to the study's folder."""
    file = places.result(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({**measure(run, places, steps), "steps": steps}, indent=1))
