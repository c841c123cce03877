"""The whole network through the kernels: the modules, buckets and padding of the triton backend, against eager PyTorch.

Under the interpreter the ops' kernels are called on CPU tensors; on a GPU the same tests run captured graphs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.op import Op
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.model.graphs import PAIR
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.protocol import on_host
from img_deploy.runtime.backends.torch.backend import TorchBackend
from img_deploy.runtime.backends.triton.backend import TritonBackend
from img_deploy.runtime.backends.triton.captured_run import StaticRun
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = {"fp32": 3e-5, "fp16": 2e-2, "bf16": 1.5e-1}
"""Largest difference of any output (about 1 to 10 in size) from eager float32; half precisions round every tensor."""


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> set[str]:
    """Calls of the ops go to the kernels, also on CPU tensors; gives the names of those that were called."""
    names: set[str] = set()
    on_cuda = Op.run_kernel

    def kernel(op: Op, *args: Any, **kwargs: Any) -> Any:
        assert not kwargs.get("dropout_p")
        return op.run_kernel(*args)

    def noted(op: Op, *args: Any) -> Any:
        names.add(op.name)
        return on_cuda(op, *args)

    monkeypatch.setattr(Op, "run_kernel", noted)
    if device.type == "cpu":
        monkeypatch.setattr(Op, "__call__", kernel)
    return names


@pytest.fixture
def backend(device: torch.device) -> Callable[..., TritonBackend]:
    """``backend(network, "fp16", clips=9)``: the triton backend on this machine, without a capture under the
    interpreter. Requests are padded to at most so many clips and 9 words."""

    def make(network: IMGNetwork, precision: str, clips: int) -> TritonBackend:
        packed = PackedNetwork(network, precision, str(device))
        limits = {"clips": clips, "words": 9, "chars": 20}

        def on_new_stream() -> Callable[..., StaticRun]:
            if device.type == "cpu":
                return lambda spec, bucket: StaticRun(packed, spec, bucket)
            from img_deploy.runtime.backends.triton.captured_run import CapturedRun, CaptureStream

            stream = CaptureStream()
            return lambda spec, bucket: CapturedRun(packed, spec, bucket, stream)

        return TritonBackend(packed, limits, on_new_stream)

    return make


def with_noise(checkpoint: Checkpoint, case: dict[str, np.ndarray]) -> IMGNetwork:
    """The network of a run with the slot noise that a case was recorded with."""
    network = checkpoint.network()
    noise = np.concatenate([case["in.noise_video"], case["in.noise_audio"]])
    network.fusion.event.slot_attention.noise.copy_(torch.from_numpy(noise))
    return network


def feeds_of(checkpoint: Checkpoint, case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    feeds = {"video": case["in.video"], "audio": case["in.audio"]}
    if "in.text" in case:
        feeds["text"] = case["in.text"]
    else:
        ids, chars = case["in.word_ids"], case["in.char_ids"]
        table = np.concatenate([np.zeros((2, 300), np.float32), checkpoint.vocabulary.vectors])
        chars = np.pad(chars, ((0, 0), (0, 0), (0, max(0, 4 - chars.shape[2]))))
        feeds |= {"word_vectors": table[ids], "word_unknown": ids == 1, "char_ids": chars}
    words = feeds.get("text", feeds.get("word_vectors"))
    return feeds | {"clip_mask": np.ones(feeds["video"].shape[:2], bool), "word_mask": np.ones(words.shape[:2], bool)}


def stacked(many: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Feeds of single samples as one padded batch."""
    batch = {}
    for name in many[0]:
        shape = np.max([one[name].shape for one in many], axis=0)
        batch[name] = np.zeros((len(many), *shape[1:]), many[0][name].dtype)
        for row, one in enumerate(many):
            batch[name][(row, *(slice(size) for size in one[name].shape[1:]))] = one[name][0]
    return batch


def run_all(backend: Any, feeds: dict[str, np.ndarray], grounder: str = "grounder") -> dict[str, np.ndarray]:
    """Every output from features to logits, each graph fed with what the ones before it gave."""
    found: dict[str, np.ndarray] = {}
    for graph in ("video_encoder", "query_encoder", grounder):
        found |= backend.run(graph, {**feeds, **found})
    return found


def check(found: dict, expected: dict, row: int, tolerance: float) -> None:
    """Compare one sample of a batch with itself alone."""
    for name, values in expected.items():
        real = tuple(slice(size) for size in values.shape[1:])
        values, got = on_host(values), on_host(found[name])[(row, *real)].astype(np.float64)
        assert np.isfinite(got).all(), name
        worst = np.abs(got - values[0]).max()
        assert worst <= tolerance, f"{name}: off by {worst:.2e}, allowed {tolerance:.0e}"


def case_of(checkpoints: dict, run: str, name: str) -> tuple[IMGNetwork, dict, dict]:
    case = load_file(GOLDEN / run / f"{name}.safetensors")
    return with_noise(checkpoints[run], case), feeds_of(checkpoints[run], case), case


def test_recorded_values(checkpoints: dict, used: set, backend: Callable) -> None:
    """The network through the kernels gives other answers than the paper's own code."""
    network, feeds, case = case_of(checkpoints, "tiny_glove", "case_L7_Q5")
    found = run_all(backend(network, "fp32", 7), feeds)
    check(found, run_all(TorchBackend(network), feeds), 0, TOLERANCE["fp32"])
    recorded = {
        "start_logits": "out.start_av",
        "end_logits": "out.end_av",
        "saliency": "out.saliency_av",
        "saliency_visual": "out.saliency_v",
        "saliency_audio": "out.saliency_a",
        "importance": "out.importance",
    }
    for name, key in recorded.items():
        np.testing.assert_allclose(found[name].ravel(), case[key].ravel(), atol=1e-4, err_msg=name)
    assert used == set(OP_NAMES), "an op went to its reference"


@pytest.mark.parametrize(("precision", "clips"), [("fp32", 12), ("fp16", 8), ("bf16", 8)])
def test_a_ragged_batch(checkpoints: dict, used: set, backend: Callable, precision: str, clips: int) -> None:
    """Padding, masks or other samples would change an answer, in three graphs or in one; or a precision loses more than
    rounding does."""
    names = ("case_L7_Q5", "case_L1_Q2")
    network, _, _ = case_of(checkpoints, "tiny_vlm", names[0])
    alone = [case_of(checkpoints, "tiny_vlm", name)[1] for name in names]
    kernels, eager = backend(network, precision, clips), TorchBackend(network)
    found, pairs = run_all(kernels, stacked(alone)), kernels.run(PAIR, stacked(alone))
    for row, feeds in enumerate(alone):
        expected = run_all(eager, feeds)
        check(found, expected, row, TOLERANCE[precision])
        check(pairs, {name: expected[name] for name in pairs if name in expected}, row, TOLERANCE[precision])
    assert used


def test_a_video_without_sound(checkpoints: dict, used: set, backend: Callable) -> None:
    """The visual head through the kernels gives another answer than in eager PyTorch."""
    network, feeds, _ = case_of(checkpoints, "tiny_glove_deep", "case_L9_Q6")
    found = run_all(backend(network, "fp32", 9), feeds, "visual_grounder")
    check(found, run_all(TorchBackend(network), feeds, "visual_grounder"), 0, TOLERANCE["fp32"])
    ops = {"attention_block", "boundary_logits", "conv_block", "query_attention", "word_embedding", "best_spans"}
    assert used == ops
