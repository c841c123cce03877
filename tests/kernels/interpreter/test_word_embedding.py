"""Words and their characters against the float64 reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from img_deploy.kernels.launch import STORAGE_DTYPES
from img_deploy.kernels.word_embedding import kernel, reference
from img_deploy.kernels.word_embedding.reference import TOLERANCES

TABLE = 23

# N, W, V, E, D, dtype
CASES = [
    (1, 4, 20, 6, 32, "fp32"),
    (3, 5, 300, 50, 128, "fp16"),
    (16, 9, 20, 6, 32, "bf16"),
    (17, 6, 33, 17, 48, "fp32"),
    (40, 6, 20, 6, 32, "fp16"),
    (2, 19, 70, 16, 32, "fp32"),
    (9, 7, 300, 50, 128, "bf16"),
]


def drawn(draw_inputs: Callable, case: tuple, samples: int = 2) -> list[Tensor]:
    """Words of 1 to W characters, the later samples' ever shorter; one word of each sample has no vector."""
    words, chars, vector, letters, dim, dtype = case
    shapes = kernel.shapes(samples, words, vector, TABLE, letters, dim)
    vectors, unknown, *weights = draw_inputs(shapes, STORAGE_DTYPES[dtype], [1] * samples)
    ids = torch.randint(1, TABLE, (samples, words, chars), generator=torch.Generator().manual_seed(1))
    for sample in range(samples):
        for word in range(words):
            ids[sample, word, max(1, (chars - 2 * sample) * (word + 1) // words) :] = 0
    weights[1][0] = 0.0  # of the padding character
    return [vectors, unknown, ids.to(vectors.device), *weights]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "N{}-W{}-V{}-E{}-D{}-{}".format(*case))
def test_words(case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """A tap, a convolution, the end of its windows, an unknown word or a half of the projection goes wrong."""
    inputs = drawn(draw_inputs, case)
    got = kernel.word_embedding(*inputs)
    assert got.dtype == STORAGE_DTYPES[case[-1]]
    check_close(got, in_float64(reference.word_embedding, *inputs), TOLERANCES[case[-1]], str(case))


def test_batch_invariance(draw_inputs: Callable) -> None:
    """A query's words depend on its neighbours' length, or on padding of its characters."""
    inputs = drawn(draw_inputs, (18, 12, 20, 6, 32, "fp32"), samples=3)
    together = kernel.word_embedding(*inputs)
    longest = int((inputs[2][2] != 0).sum(-1).max())
    alone = [inputs[0][2:3], inputs[1][2:3], inputs[2][2:3, :, : max(4, longest)].contiguous(), *inputs[3:]]
    assert torch.equal(kernel.word_embedding(*alone), together[2:3])
