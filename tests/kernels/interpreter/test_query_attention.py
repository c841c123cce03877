"""Context-query attention against the float64 reference."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from img_deploy.kernels import launch
from img_deploy.kernels.launch import STORAGE_DTYPES
from img_deploy.kernels.query_attention import kernel, reference
from img_deploy.kernels.query_attention.reference import TOLERANCES

# L, N, D, dtype, variant
CASES = [
    (1, 1, 32, "fp32", "small_batch"),
    (2, 3, 128, "fp16", "large_batch"),
    (3, 31, 32, "bf16", "small_batch"),
    (7, 2, 128, "fp32", "large_batch"),
    (16, 128, 32, "fp16", "large_batch"),
    (31, 7, 128, "bf16", "large_batch"),
    (64, 16, 32, "fp32", "small_batch"),
    (127, 10, 32, "fp16", "small_batch"),
    (128, 12, 128, "fp32", "large_batch"),
    (128, 9, 32, "bf16", "large_batch"),
    (5, 127, 32, "fp32", "small_batch"),
    (33, 64, 32, "bf16", "small_batch"),
    (40, 17, 128, "fp16", "small_batch"),
    (20, 11, 48, "fp32", "small_batch"),
    (37, 21, 48, "fp16", "large_batch"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "L{}-N{}-D{}-{}-{}".format(*case))
def test_attention(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A softmax, its mask, a block of words or clips, a quarter of the projection or the pooled query goes wrong."""
    length, words, dim, dtype, variant = case
    monkeypatch.setattr(launch, "batch_regime", lambda _: variant)
    samples = 4 if length < 100 else 2  # ragged; no real word; no real clip; all real
    lengths = {
        "clip_mask": [max(1, length // 2), length, 0, length][:samples],
        "word_mask": [max(1, words // 2), 0, words, words][:samples],
    }
    inputs = draw_inputs(kernel.shapes(samples, length, words, dim), STORAGE_DTYPES[dtype], lengths)
    got = kernel.query_attention(*inputs)
    assert got.dtype == STORAGE_DTYPES[dtype]
    check_close(got, in_float64(reference.query_attention, *inputs), TOLERANCES[dtype], str(case))


def test_batch_invariance(draw_inputs: Callable, check_close: Callable) -> None:
    """The first sample's answer changes with padding, masked junk or its neighbours in the batch."""
    lengths = {"clip_mask": [20, 37], "word_mask": [5, 18]}
    inputs = draw_inputs(kernel.shapes(2, 37, 18, 32), torch.float32, lengths)
    together = kernel.query_attention(*inputs)
    clips, words, clip_mask, word_mask, *weights = inputs
    alone = [clips[:1, :20], words[:1, :5], clip_mask[:1, :20], word_mask[:1, :5]]
    got = kernel.query_attention(*(tensor.contiguous() for tensor in alone), *weights)
    check_close(got, together[:1, :20].cpu().double(), TOLERANCES["fp32"], "alone and padded")


def test_refuses_no_words(draw_inputs: Callable) -> None:
    """A query without words is 0 / 0 everywhere."""
    inputs = draw_inputs(kernel.shapes(1, 4, 1, 32), torch.float32, [1])
    inputs[1], inputs[3] = inputs[1][:, :0], inputs[3][:, :0]
    with pytest.raises(ValueError, match="words: got none"):
        kernel.query_attention(*inputs)


def test_products_beyond_fp16(draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """Clips of a large scale, whose products leave the range of fp16, give infinities and then a moment of no clip."""
    inputs = draw_inputs(kernel.shapes(2, 20, 5, 32), torch.float16, {"clip_mask": [20, 11], "word_mask": [5, 3]})
    inputs[0] = inputs[0] * 1000  # products of 1e6 and more
    for weight in (4, 5, 6):  # of the scores, which would all be one word's otherwise
        inputs[weight] = inputs[weight] * 1e-3
    inputs[7][:, -32:] *= 2**-8  # of the products, so that the result fits
    expected = in_float64(reference.query_attention, *inputs)
    assert 1000 < expected.abs().max() < 60000
    tolerance = TOLERANCES["fp16"]
    scaled = replace(tolerance, absolute=tolerance.absolute * float(expected.abs().max()))
    check_close(kernel.query_attention(*inputs), expected, scaled, "clips of 1000")
    check_close(reference.query_attention(*inputs), expected, scaled, "the reference in fp16")
