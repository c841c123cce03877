"""What tuning would launch on a GPU, launched once on whatever there is."""

from functools import partial
from importlib import import_module

import pytest
import torch

from img_deploy.kernels import launch
from img_deploy.kernels.tuning import config_of

OPS = ("attention_block", "conv_block", "local_fusion", "global_fusion", "query_attention")


@pytest.mark.parametrize("op", OPS)
def test_tuning_calls(op: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning ends in an error on the first GPU it sees: a block size is missing, misnamed, or the call does not fit."""
    monkeypatch.setattr(launch, "draw_inputs", partial(launch.draw_inputs, device=device))
    calls = list(import_module(f"img_deploy.kernels.{op}.kernel").tuning_calls())
    assert {(call.variant, call.dtype) for call in calls} == {
        (variant, dtype) for variant in ("small_batch", "large_batch") for dtype in ("fp32", "fp16", "bf16")
    }
    for call in calls:
        names = set(config_of(op, call.variant, call.dtype).blocks)
        assert all(set(candidate.blocks) == names for candidate in call.candidates)
        assert len(set(map(str, call.candidates))) == len(call.candidates) > 8
    alone = next(call for call in calls if (call.variant, call.dtype) == ("small_batch", "fp16"))
    out = alone.run.args[-1]  # type: ignore[attr-defined]
    assert out.isnan().all()
    alone.run(alone.candidates[-1])
    assert out.isfinite().all()
