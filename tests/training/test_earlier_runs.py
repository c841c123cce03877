"""A run of version 0.1 (golden/run_of_0.1, stopped after 3 of its 6 steps): still scored, still continued."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from img_deploy.training.config import read_config
from img_deploy.training.evaluation_run import EvaluationRequest, run_evaluation
from img_deploy.training.train import train

RUN = Path(__file__).parents[1] / "golden" / "run_of_0.1"


@pytest.fixture(scope="module")
def expected():
    """What version 0.1 itself made of the run."""
    return json.loads((RUN / "expected.json").read_text())


def test_its_checkpoint_answers_as_then(narrow_data, expected, tmp_path):
    """A user's best.pt must load in every later version, and find the same moments."""
    request = EvaluationRequest("charades", narrow_data, RUN / "best.pt", features="i3d", cache=tmp_path)
    answers = run_evaluation(request).answers
    assert [sample.qid for sample in answers.queries.samples] == expected["qids"]
    for head, windows in expected["windows"].items():
        np.testing.assert_allclose(answers.windows[head], windows, atol=1e-3)
    np.testing.assert_allclose(answers.importance, expected["importance"], atol=1e-4)


def test_it_goes_on_as_it_would_have_then(narrow_data, expected, tmp_path):
    """A run must survive an update of the program: its settings, its state, its best score so far."""
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    config = read_config(run / "config.yaml", {"data": str(narrow_data), "cache": str(tmp_path / "cache")})
    losses = []
    result = train(config, run, resume=True, listener=lambda progress: losses.append(progress.loss))
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-4)
    assert result.card["history"][0] == expected["history"][0]
    for found, wanted in zip(result.card["history"], expected["history"], strict=True):
        assert found == pytest.approx(wanted, abs=1e-3)
