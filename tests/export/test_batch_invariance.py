"""The exported graphs give any batch of any lengths what the eager network gives each sample alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.export.samples import Sample
from img_deploy.export.verify import compare, in_run_order, results
from img_deploy.features.prepare import VideoFeatures
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from img_deploy.runtime.backends.torch.backend import TorchBackend
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import Query
from img_deploy.text.vocabulary import EncodedWords

RUNS = ("tiny_glove", "tiny_vlm")
items = st.tuples(st.integers(1, 16), st.integers(1, 40), st.integers(4, 24), st.booleans())


@pytest.fixture(scope="module")
def backends(exported, checkpoints):
    """Run -> the bundle in ONNX Runtime, the network in eager PyTorch."""
    return {
        run: (OrtBackend(Bundle.open(exported(run)), threads=1), TorchBackend(checkpoints[run].network()))
        for run in RUNS
    }


def drawn(config, clips, words, width, sound, rng):
    video = rng.standard_normal((clips, config.video_dim), np.float32)
    audio = rng.standard_normal((clips, config.audio_dim), np.float32) if sound else None
    content = rng.standard_normal((words, config.text_dim), np.float32)
    if config.variant == "glove":
        unknown = rng.random(words) < 0.3
        chars = rng.integers(0, config.chars, (words, width))
        content = EncodedWords(np.where(unknown[:, None], np.float32(0), content), unknown, chars, ())
    return Sample(VideoFeatures("drawn", video, audio, clips), Query("", 0, content=content))


@pytest.mark.parametrize("run", RUNS)
@given(sizes=st.lists(items, min_size=1, max_size=5), seed=st.integers(0, 999))
@settings(max_examples=12, deadline=None)
def test_any_batch_gives_each_sample_its_own_answer(backends, checkpoints, run, sizes, seed):
    """A size that the trace took for a constant, or padding that leaks, would move a logit or fail at once.

    Sizes of 1 (one clip, one word, one sample) are those that tracing likes to fix.
    """
    onnx_backend, eager = backends[run]
    rng = np.random.default_rng(seed)
    # One sample with sound is always there: silence has no width of its own.
    sizes = [(*sizes[0][:3], True), *sizes[1:]]
    samples = in_run_order(drawn(checkpoints[run].config, *size, rng) for size in sizes)
    reference = results(eager, samples, batch_size=1)
    rows = compare(onnx_backend, samples, reference, dict.fromkeys(GRAPH_NAMES, 0), batch_sizes=(1, 8))
    assert rows
    assert [row for row in rows if not row.passed] == []
