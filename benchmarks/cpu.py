"""Speed of a full-size network on this machine's CPU: ``python -m img_deploy.benchmarks.cpu --out benchmarks/results``.

A network of the published size with random weights is exported, then eager PyTorch, the published way of computing
and ONNX Runtime answer the same drawn pairs in turns. Speed does not depend on what the weights are.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.benchmarks.contenders import EAGER, Contender, Lineup, open_contenders
from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.latency import Grid
from img_deploy.benchmarks.profile import Profile, ProfileOptions, measure_lineup, write_json
from img_deploy.benchmarks.results_page import results_page
from img_deploy.benchmarks.timing import Effort
from img_deploy.errors import ImgDeployError, InputError, VerificationError
from img_deploy.runtime.backends.base import Feeds
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.inputs import input_rules

if TYPE_CHECKING:
    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.model.network import IMGNetwork

CPU_EAGER = f"{EAGER}:cpu"
AGAIN = f"{CPU_EAGER} again"
PUBLISHED = "as published"
NOTES = {
    CPU_EAGER: "this project's network in eager PyTorch: the baseline of every ratio",
    AGAIN: "the same once more: how far a ratio of nothing may be from 1",
    PUBLISHED: "eager PyTorch with packed `nn.GRU` in step 13 and all three predictors, as the published code computes",
    "onnxruntime:cpu": "the exported graphs in ONNX Runtime",
    "aoti:cpu": "the graphs compiled by AOTInductor",
}
TOLERANCE = 3e-5
"""Largest difference of a logit (absolute, float32) with which the published way counts as the same network."""
SEED = 0
COMMAND = "python -m img_deploy.benchmarks.cpu"


def full_size_checkpoint(seed: int = SEED) -> "Checkpoint":
    """A checkpoint of the published size (D = 128, I3D and PANNs features, GloVe variant) with random weights."""
    import torch

    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.model.config import ModelConfig
    from img_deploy.model.network import IMGNetwork
    from img_deploy.text.vocabulary import Vocabulary

    letters = "abcdefghijklmnopqrstuvwxyz"
    syllables = ["".join(pair) for pair in product("bdfklmnprst", "aeiou")]
    words = ["".join(pair) for pair in product(syllables[:30], syllables)]
    vectors = np.random.default_rng(seed).standard_normal((len(words), 300), np.float32)
    vocabulary = Vocabulary(words, vectors, letters)
    config = ModelConfig(chars=vocabulary.char_table_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = IMGNetwork(config)
    network.draw_slot_noise(seed)
    features = {"video": {"name": "i3d", "width": 1024}, "audio": {"name": "panns", "width": 2048}}
    origin = {"origin": "random weights for timing", "seed": seed}
    return Checkpoint(config, network.state_dict(), features, seed, vocabulary, provenance=origin)


def check_published(network: "IMGNetwork", seed: int = SEED) -> float:
    """Largest difference of any grounder output between both ways of computing, over ragged batches.

    Raises VerificationError above :data:`TOLERANCE`.
    """
    from img_deploy.benchmarks.published import PublishedBackend
    from img_deploy.runtime.backends.torch_eager import TorchBackend

    random = np.random.default_rng(seed)
    one, other = TorchBackend(network), PublishedBackend(network)
    differences = []
    for lengths in ([1], [7, 31], [network.config.max_clips, 64, 3]):
        feeds, mask = _grounder_feeds(random, np.array(lengths), 9, network.config.dim)
        expected, found = one.run("grounder", feeds), other.run("grounder", feeds)
        for name, values in expected.items():
            real = mask if values.ndim == 2 else np.ones(len(lengths), bool)
            differences.append(np.abs(found[name][real] - values[real]).max())
    largest = float(np.max(differences))  # NaN where any is
    if not largest <= TOLERANCE:
        raise VerificationError(
            f"published way of computing: off by {largest:.1e}, expected at most {TOLERANCE}; its time is of no worth"
        )
    return largest


def _grounder_feeds(random: np.random.Generator, lengths: Any, words: int, dim: int) -> tuple[Feeds, Any]:
    batch, longest = len(lengths), int(lengths.max())
    mask = np.arange(longest) < lengths[:, None]  # [B, L]
    sizes = {"visual_clips": longest, "audio_clips": longest, "visual_words": words, "audio_words": words}
    feeds = {name: random.standard_normal((batch, size, dim), np.float32) for name, size in sizes.items()}
    return {**feeds, "clip_mask": mask, "word_mask": np.ones((batch, words), bool)}, mask


def lineup_of(bundle: Bundle, network: "IMGNetwork", backends: Sequence[str], threads: int | None) -> Lineup:
    """Eager PyTorch twice, the published way of computing, and other backends, all on the CPU."""
    from img_deploy.benchmarks.published import PublishedBackend

    opened = open_contenders(bundle, [CPU_EAGER, *backends], threads)
    rules = input_rules(bundle)
    eager = opened.contenders[0].predictor.choice
    extra = [
        Contender(bundle, rules, eager, AGAIN),
        Contender(bundle, rules, Choice(PublishedBackend(network), "the published code's way"), PUBLISHED),
    ]
    return Lineup((opened.contenders[0], *extra, *opened.contenders[1:]), opened.out)


def run(
    work: Path, options: ProfileOptions, tell: Callable[[str], None], compiled: bool = False
) -> tuple[Profile, dict[str, Any]]:
    """Export into ``work``, check and measure; gives the profile, and what was verified beforehand.

    ``compiled`` has the graphs compiled as well, which takes minutes.
    """
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint

    where = environment(options.threads)
    checkpoint = full_size_checkpoint()
    network = checkpoint.network()
    tell("checking the published way of computing")
    checks: dict[str, Any] = {"published_difference": check_published(network)}
    tell("exporting")
    targets = ("onnx", "aoti") if compiled else ("onnx",)
    verification = bundle_from_checkpoint(checkpoint, work / "deploy", ExportOptions(targets=targets), tell)
    checks["export"] = verification.as_dict()
    bundle = Bundle.open(work / "deploy")
    backends = ["onnxruntime:cpu", *(["aoti:cpu"] if compiled else [])]
    lineup = lineup_of(bundle, network, backends, options.threads)
    return measure_lineup(
        bundle, lineup, options, where, [CPU_EAGER, *backends], lambda name, _total: tell(name)
    ), checks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write ``cpu.json`` and ``cpu.md``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=20.0, help="time per case, at least 5 rounds (default 20)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 4, 16], help="default 1 4 16")
    parser.add_argument("--clips", type=int, nargs="+", default=[32, 64, 128], help="default 32 64 128")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: each backend's choice)")
    parser.add_argument("--aoti", action="store_true", help="compile packages and measure them too: takes minutes")
    parser.add_argument("--work", type=Path, default=None, help="keep the exported bundle here (default: temporary)")
    given = parser.parse_args(arguments)
    try:
        grid = Grid(tuple(given.batch_size), tuple(given.clips))
        options = ProfileOptions(grid=grid, effort=Effort(given.seconds), threads=given.threads)
        with _folder(given.work) as work:
            profile, checks = run(work, options, _tell, given.aoti)
        _write(given.out, profile, checks, sys.argv[1:] if arguments is None else arguments)
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with TemporaryDirectory(prefix="img-deploy-cpu-") as place:
        yield Path(place)


def _write(out: Path, profile: Profile, checks: dict[str, Any], arguments: Sequence[str] = ()) -> None:
    command = " ".join([COMMAND, *arguments])
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The bundle was temporary: its path says nothing to a reader.
        write_json(
            {**profile.as_dict(), "bundle": "random weights, full size"} | {"command": command, "checks": checks},
            out / "cpu.json",
        )
        (out / "cpu.md").write_text(results_page(profile, checks, NOTES, command), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out") from None
    _tell(f"wrote {out / 'cpu.json'} and {out / 'cpu.md'}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
