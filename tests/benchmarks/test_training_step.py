"""The benchmark of training steps: what is compared is the same work, and the page says what was measured."""

import json

import pytest

from img_deploy.benchmarks import training_step
from img_deploy.benchmarks.operator_profile import AUTOGRAD, OTHER, kind_of, profile_operators


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::addcmul_", OTHER),
        ("aten::_softmax_backward_data", "softmax and norms"),
        ("aten::native_layer_norm", "softmax and norms"),
        ("aten::_fused_adamw_", "update of the weights"),
        ("aten::select", "views"),
        ("aten::copy_", "copies and new tensors"),
        ("aten::random_", "random numbers"),
        ("aten::tanh_", OTHER),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("MulBackward0", AUTOGRAD),
    ],
)
def test_kinds_of_operators(name, kind):
    """A table of where the time goes is worth what its names are worth."""
    assert kind_of(name) == kind


def test_operators_are_counted():
    """Calls per step is a figure that others quote."""
    import torch

    a = torch.ones(64, 64)
    found = profile_operators(lambda: a @ a + a, repeats=2)
    assert found.kernels["matrix products"] >= 1
    assert found.kernels[OTHER] == 1
    assert sum(found.share.values()) == pytest.approx(1, abs=1e-3)


def test_a_small_measurement_from_command_to_page(tmp_path, monkeypatch):
    """The command runs, refuses to time ways that differ, and its page holds every shape."""
    shape = training_step.Shape(8, 4, 16, 5.0)
    monkeypatch.setattr(training_step, "SHAPES", (shape,))
    monkeypatch.setattr(training_step, "WARM_UP", 1)
    monkeypatch.setattr(training_step, "VIDEOS", 12)
    arguments = ["--out", str(tmp_path), "--seconds", "0.1", "--loop-steps", "3", "--shapes", "1"]
    assert training_step.main(arguments) == 0
    result = json.loads((tmp_path / "training_step.json").read_text())
    (case,) = result["cases"]
    assert case["bare"]["this project"]["count"] == case["bare"]["published way"]["count"] >= 5
    assert case["loop"]["count"] == case["loop_cpu"]["count"] == 3
    assert list(case["stages"]["this project"]) == ["load", "forward", "backward", "update"]
    ours, published = (case["operators"][name]["calls"] for name in ("this project", "published way"))
    assert 0 < ours < published
    page = (tmp_path / "training_step.md").read_text()
    assert page == training_step.page(result)
    assert str(shape) in page
    assert "measured elsewhere" in page
