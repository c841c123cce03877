"""How a GPU's own launch configurations get into the tables, without a GPU."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from img_deploy.kernels import tuning
from img_deploy.kernels.dtypes import PRECISIONS
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_of, tune


@pytest.fixture
def forget():
    yield
    tuning._table.cache_clear()


@pytest.mark.usefixtures("forget")
def test_what_is_fastest_is_taken_from_then_on(tmp_path, monkeypatch):
    """An older entry for the GPU would stand before what was measured, in one of the half precisions or in both."""
    shipped = {"num_warps": 8, "blocks": {}}
    table = {"default": {"rows": {"*": shipped}}, "sm_90": {"rows": {"fp16": shipped, "bf16": shipped}}}
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate/tuning.json").write_text(json.dumps(table))
    calls = [TuningCall("rows", dtype, lambda _: None, (LaunchConfig(4), LaunchConfig(2))) for dtype in PRECISIONS]
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(tuning, "import_module", lambda _: SimpleNamespace(tuning_calls=lambda: calls))
    monkeypatch.setattr(tuning, "compiling_only", lambda **_: nullcontext())
    monkeypatch.setattr(tuning, "_fastest", lambda _, call: LaunchConfig(4 if call.dtype == "fp32" else 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    tuning._table.cache_clear()
    tune("gate")
    warps = [config_of("gate", "rows", dtype, "some GPU", 90).num_warps for dtype in PRECISIONS]
    assert warps == [4, 2, 2]
    assert config_of("gate", "rows", "fp16", capability=80).num_warps == 8


@pytest.mark.parametrize(
    ("ops", "code", "message"), [([], 1, "this machine has none"), (["gates"], 2, "ops: got 'gates', expected")]
)
def test_what_cannot_be_tuned_is_told_in_a_line(ops, code, message, monkeypatch, capsys):
    """A machine without a GPU, or an op that does not exist, would end in a traceback."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        tuning.main(ops)
    assert ended.value.code == code
    assert message in capsys.readouterr().err.splitlines()[-1]
