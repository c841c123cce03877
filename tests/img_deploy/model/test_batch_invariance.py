"""A query's answer does not depend on its neighbours in the batch, on padding, or on its row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

TOLERANCE = 3e-5
RUNS = ("tiny_glove", "tiny_glove_deep", "tiny_vlm")
pairs = st.lists(st.tuples(st.integers(1, 16), st.integers(1, 40)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def networks(checkpoints):
    return {name: checkpoint.network() for name, checkpoint in checkpoints.items()}


def flat(out, row, clips):
    heads = (out.fused, out.visual, out.audio)
    parts = [getattr(head, name)[row, :clips] for head in heads for name in ("start", "end", "saliency")]
    return torch.cat([*parts, out.importance[row : row + 1]])


def compare(network, batches, samples, **padding):
    with torch.no_grad():
        together = network(*batches.collate(samples, **padding))
        for row, sample in enumerate(samples):
            alone = network(*batches.collate([sample]))
            clips = len(sample.video)
            torch.testing.assert_close(flat(together, row, clips), flat(alone, 0, clips), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("run", RUNS)
@given(lengths=pairs, seed=st.integers(0, 1000), extra=st.integers(0, 6))
@settings(max_examples=15, deadline=None)
def test_any_batch_gives_each_sample_its_own_answer(networks, batches, run, lengths, seed, extra):
    """Leaking padding (convolutions, pools, softmax, GRU) or a batch-indexed position would move a logit."""
    network = networks[run]
    samples = [batches.draw(network.config, *size, seed + i) for i, size in enumerate(lengths)]
    longest = max(clips for clips, _ in lengths)
    compare(network, batches, samples, extra=min(extra, network.config.max_clips - longest))


@pytest.fixture(scope="module")
def full_length_network():
    """Random weights, videos of up to 128 clips."""
    from img_deploy.model.config import ModelConfig
    from img_deploy.model.network import IMGNetwork

    torch.manual_seed(0)
    config = ModelConfig(variant="tokens", video_dim=12, audio_dim=10, text_dim=14, dim=32, heads=4)
    network = IMGNetwork(config).eval()
    network.draw_slot_noise(0)
    return network


@given(
    lengths=st.lists(st.tuples(st.integers(1, 128), st.integers(1, 40)), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=8, deadline=None)
def test_lengths_up_to_128_clips_and_40_words(full_length_network, batches, lengths, seed):
    """Small fixtures stop at 16 clips: an error that grows with length would hide there."""
    samples = [batches.draw(full_length_network.config, *size, seed + i) for i, size in enumerate(lengths)]
    compare(full_length_network, batches, samples)


@pytest.mark.parametrize("run", RUNS)
def test_what_lies_in_the_padding_does_not_matter(networks, batches, run):
    """Backends may leave anything finite in padded clips; a mask applied too late would let it through."""
    samples = [batches.draw(networks[run].config, clips, 5, clips) for clips in (3, 16, 1)]
    compare(networks[run], batches, samples, garbage=50.0)


@pytest.mark.parametrize("run", RUNS)
def test_order_does_not_matter(networks, batches, run):
    """The paper's code adds the positional row of the batch: the same sample in another row gave another answer."""
    network = networks[run]
    samples = [batches.draw(network.config, clips, clips + 1, clips) for clips in (2, 9, 16)]
    with torch.no_grad():
        forward, backward = network(*batches.collate(samples)), network(*batches.collate(samples[::-1]))
    for row, sample in enumerate(samples):
        clips = len(sample.video)
        torch.testing.assert_close(flat(forward, row, clips), flat(backward, 2 - row, clips), atol=TOLERANCE, rtol=0)


def test_an_empty_row_gives_no_nan(full_length_network, batches):
    """A bucket that is not full holds rows of no clip at all; their softmax rows are fully masked."""
    network = full_length_network
    video, audio, mask, text = batches.collate([batches.draw(network.config, 7, 4, 1)] * 2)
    mask[1], text.mask[1] = False, False
    with torch.no_grad():
        out = network(video, audio, mask, text)
        alone = network(*batches.collate([batches.draw(network.config, 7, 4, 1)]))
    assert all(getattr(out.fused, part).isfinite().all() for part in ("start", "end", "saliency"))
    torch.testing.assert_close(flat(out, 0, 7), flat(alone, 0, 7), atol=TOLERANCE, rtol=0)


def test_padding_characters_further_changes_nothing(networks, batches):
    """The paper's code pools characters over the longest word of the batch, padding included."""
    network = networks["tiny_glove"]
    video, audio, mask, text = batches.collate([batches.draw(network.config, 8, 4, 2)])
    with torch.no_grad():
        short = network(video, audio, mask, text)
        text.char_ids = torch.nn.functional.pad(text.char_ids, (0, 9))
        long = network(video, audio, mask, text)
    torch.testing.assert_close(short.fused.start, long.fused.start, atol=TOLERANCE, rtol=0)
