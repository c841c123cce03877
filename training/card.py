"""The card of a run: what was trained, how the checkpoint was chosen, and what it scores."""

import platform
from typing import TYPE_CHECKING, Any

from img_deploy import __version__
from img_deploy.errors import one_line
from img_deploy.training.checkpoint_callback import CHOSEN_BY, protocol

if TYPE_CHECKING:
    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.training.checkpoint_callback import CheckpointCallback
    from img_deploy.training.config import TrainConfig
    from img_deploy.training.datasets import Datasets
    from img_deploy.training.evaluate import Evaluation


def run_card(
    config: "TrainConfig",
    datasets: "Datasets",
    callback: "CheckpointCallback",
    best: "Checkpoint",
    test: "Evaluation",
    test_seconds: float,
) -> dict[str, Any]:
    """All that a reader of a number needs to know about it, as plain values."""
    import lightning
    import torch

    return {
        "protocol": protocol(config),
        "chosen_by": CHOSEN_BY,
        "best_step": best.provenance["step"],
        "total_steps": best.provenance["total_steps"],
        "selection": {name: value for name, value in best.metrics.items() if "/" in name or name == "importance"},
        "test": test.as_dict(),
        "test_seconds": round(test_seconds, 2),
        "data": {
            "training_queries": len(datasets.train),
            "training_queries_without_audio_left_out": datasets.without_audio,
            "selection_queries": len(datasets.validation),
            "notes": list(datasets.notes),
        },
        "config": config.model_dump(),
        "seeds": {"run": config.seed, "slot_noise": config.noise_seed},
        "samples_per_second": round(callback.samples_per_second, 2),
        "history": callback.history,
        "program": f"img-deploy {__version__}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
    }


def card_text(card: dict[str, Any]) -> str:
    """The card in Markdown."""
    config = card["config"]
    lines = [
        f"# {config['task']} on {config['features']}",
        "",
        f"- Checkpoint: `best.pt`, step {card['best_step']} of {card['total_steps']}, {card['protocol']}, "
        f"by {card['chosen_by']}.",
        f"- Trained on {card['data']['training_queries']} queries; "
        f"{card['data']['training_queries_without_audio_left_out']} on videos without sound were left out.",
        f"- Seeds: run {card['seeds']['run']}, slot noise {card['seeds']['slot_noise']}.",
        f"- {card['program']}, torch {card['versions']['torch']}, {card['samples_per_second']} queries/s.",
        "",
        "Test split, percent, with 95% bootstrap intervals over videos:",
        "",
        "| head | queries | R1@0.3 | R1@0.5 | R1@0.7 | mIoU |",
        "|---|---|---|---|---|---|",
    ]
    for row in card["test"]["scores"]:
        cells = [f"{m['value']:.2f} ({m['low']:.1f} to {m['high']:.1f})" for m in row["metrics"].values()]
        lines.append(f"| {row['head']}, {row['group']} | {row['queries']} | {' | '.join(cells)} |")
    lines += ["", "Settings are in `config.yaml`, all scores in `card.json`."]
    lines += [f"- Note: {one_line(note)}" for note in card["data"]["notes"]]
    return "\n".join(lines) + "\n"
