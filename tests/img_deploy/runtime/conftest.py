"""Answers of the test's own making."""

import numpy as np
import pytest

from img_deploy.features import open_folder
from img_deploy.runtime.indexing import index_folder
from img_deploy.runtime.lots import Listener
from img_deploy.runtime.predictor import load_bundle
from img_deploy.runtime.results import Answer, moments_of
from img_deploy.runtime.workers import ThisProcess


class Ears(Listener):
    """Remembers what it hears."""

    def __init__(self):
        self.errors, self.unknowns, self.pairs = [], [], 0

    def skipped(self, error):
        self.errors.append(str(error))

    def encoded(self, query):
        self.unknowns.extend(query.unknown)

    def settled(self, number):
        self.pairs += number


@pytest.fixture(scope="session")
def ears():
    """Function: a listener with the ``errors``, ``unknowns`` and number of ``pairs`` that it heard of."""
    return Ears


@pytest.fixture(scope="module")
def predictors(bundles):
    """The small bundles on the torch backend."""
    return {name: load_bundle(bundles[name], "torch", threads=1) for name in ("tiny_glove", "tiny_vlm")}


@pytest.fixture(scope="module")
def predictor(predictors):
    """That of words."""
    return predictors["tiny_glove"]


@pytest.fixture
def indexed(predictor, features, tmp_path):
    """Function: index the features -> what became of the videos; other arguments are those of ``index_folder``."""
    path = str(tmp_path / "library")

    def run(**options):
        rules = predictor.rules
        folder = open_folder(features.folder, rules.video, rules.audio, max_clips=rules.max_clips)
        return index_folder(folder, ThisProcess(predictor), path, **options)

    run.path = path
    return run


@pytest.fixture
def make_answer():
    """Function: an answer with two moments; ``duration=None`` for a video of unknown length."""

    def make(vid="3MSZA", query="a person opens the door.", qid=7, duration=30.3, head="fused", clips=9):
        fused = head == "fused"
        return Answer(
            vid=vid,
            query=query,
            qid=qid,
            head=head,
            clips=clips,
            duration=duration,
            importance=np.float32(0.3) if fused else None,
            moments=moments_of([(1, 4, 0.1234567890123), (8, 8, 1e-12)], clips, duration),
            saliency=np.zeros(clips, np.float32),
            saliency_visual=np.zeros(clips, np.float32) if fused else None,
            saliency_audio=np.zeros(clips, np.float32) if fused else None,
        )

    return make
