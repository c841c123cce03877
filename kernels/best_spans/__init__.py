"""Span decoding under start <= end."""

import torch
from torch import Tensor

from img_deploy.kernels.best_spans import reference
from img_deploy.kernels.register import Op

SCHEMA = "(Tensor start_logits, Tensor end_logits, Tensor mask, int k) -> (Tensor, Tensor)"


def _fake(start_logits: Tensor, _end: Tensor, _mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    batch = start_logits.shape[0]
    spans = start_logits.new_empty((batch, k, 2), dtype=torch.int64)
    return spans, start_logits.new_empty((batch, k), dtype=torch.float32)


best_spans = Op("best_spans", SCHEMA, reference.best_spans, _fake)
