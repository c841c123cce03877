"""Annotation files in the published formats."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from img_deploy.training.synthetic.grammar import Action
from img_deploy.training.synthetic.queries import SyntheticQuery, sound_decided
from img_deploy.training.synthetic.scenes import Scene


def write_charades(
    folder: Path, scenes: Sequence[Scene], queries: Sequence[SyntheticQuery], actions: Sequence[Action]
) -> None:
    """``charades.json``, and the train, test and AudioMatter rows in the txt and the jsonl form."""
    folder.mkdir(parents=True)
    names = [action.name for action in actions]
    videos = {
        scene.vid: {
            "subset": {"train": "training", "test": "testing"}[scene.split],
            "duration": scene.duration,
            "actions": [[names.index(event.action.name), event.start, event.end] for event in scene.events],
        }
        for scene in scenes
    }
    (folder / "charades.json").write_text(json.dumps(videos), "utf-8")
    parts = {
        "sta_train": [query for query in queries if query.split == "train"],
        "sta_test": [query for query in queries if query.split == "test"],
        "audiomatter": sound_decided(queries),
    }
    for name, part in parts.items():
        _write_txt(folder / f"charades_{name}_qid.txt", part)
        jsonl = name if name.startswith("sta") else f"{name}_test"
        _write_tvr(folder / f"charades_{jsonl}_tvr_format.jsonl", part)


def write_activitynet(folder: Path, queries: Sequence[SyntheticQuery]) -> None:
    """``{train,val_1,val_2}_qid.json``."""
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("test", "val_1"), ("val_2", "val_2")):
        videos: dict[str, dict[str, Any]] = {}
        for query in queries:
            if query.split == split:
                video = videos.setdefault(
                    query.vid, {"duration": query.duration, "timestamps": [], "sentences": [], "qid": []}
                )
                video["timestamps"].append(list(query.window))
                # As published: every sentence but a video's first starts with a space.
                video["sentences"].append(" " * bool(video["sentences"]) + query.query)
                video["qid"].append(f"qid_{query.qids['json']}")
        (folder / f"{name}_qid.json").write_text(json.dumps(videos), "utf-8")


def _write_txt(path: Path, queries: Iterable[SyntheticQuery]) -> None:
    rows = (f"{q.vid} {q.window[0]} {q.window[1]}##qid_{q.qids['txt']}##{q.query}\n" for q in queries)
    path.write_text("".join(rows), "utf-8", newline="\n")


def _write_tvr(path: Path, queries: Iterable[SyntheticQuery]) -> None:
    rows = [
        json.dumps(
            {
                "qid": query.qids["tvr"],
                "query": query.query,
                "duration": query.duration,
                "vid": query.vid,
                "relevant_windows": [list(query.cut_window)],
            }
        )
        for query in queries
        if "tvr" in query.qids
    ]
    path.write_text("\n".join(rows), "utf-8", newline="\n")  # the published files end without a line break
