"""One query on one video, asked once: in one run where the backend has a graph for it."""

from dataclasses import replace

import numpy as np
import pytest

from img_deploy.errors import FeatureError, InputError
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.backends.torch.backend import network_from_bundle
from img_deploy.runtime.backends.triton.backend import TritonBackend
from img_deploy.runtime.backends.triton.captured_run import StaticRun
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
from img_deploy.runtime.predictor import Predictor


@pytest.fixture(scope="module", params=["torch", "triton"])
def predictor(request, predictors):
    """On PyTorch, and on the kernels' references, which have the graph of a pair."""
    eager = predictors["tiny_glove"]
    if request.param == "torch":
        return eager
    packed = PackedNetwork(network_from_bundle(eager.bundle), "fp32", "cpu")
    limits = eager.bundle.manifest.limits
    backend = TritonBackend(packed, limits, lambda: lambda spec, bucket: StaticRun(packed, spec, bucket))
    return Predictor(eager.bundle, eager.rules, Choice(backend, "a test"))


def draw(predictor, clips, seed=0):
    random = np.random.default_rng(seed)
    return [
        random.standard_normal((clips, kind.width), np.float32)
        for kind in (predictor.rules.video, predictor.rules.audio)
    ]


@pytest.mark.parametrize("clips", [1, 9, 40])
@pytest.mark.parametrize("sound", [True, False])
def test_it_is_the_answer_of_the_three_calls(predictor, clips, sound):
    """A video asked once would be answered otherwise than one that is kept."""
    video, audio = draw(predictor, clips)
    audio = audio if sound else None
    sentence = " ".join(predictor.vocabulary.words[:3])
    found = predictor.answer(video, audio, sentence, vid="v", qid=7, top_k=3, duration=np.float32(20))
    encoded = predictor.encode_video(video, audio, vid="v"), predictor.encode_query(sentence, qid=7)
    expected = predictor.ground(*encoded, top_k=3, durations=20.0)
    for name in ("vid", "query", "qid", "head", "clips", "duration"):
        assert getattr(found, name) == getattr(expected, name)
    assert [one.span for one in found.moments] == [one.span for one in expected.moments]
    assert found.best.score == pytest.approx(expected.best.score, rel=1e-5)
    np.testing.assert_allclose(found.saliency, expected.saliency, atol=1e-5)
    assert (found.importance is None) is not sound


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"^v: audio features: got NaN at clip 3 \(column 1\), expected finite numbers"),
        (-np.inf, r"^v: audio features: got Inf at clip 3 \(column 1\), expected finite numbers"),
        (1e7, r"^v: audio features: got values from -\S+ to 1e\+07, .* mend their scale$"),
    ],
)
def test_features_that_nobody_extracts_are_refused(predictor, value, message):
    """A pair in one run would be answered from them, or be said to have no result."""
    predictor = of_usual_range(predictor)
    video, audio = draw(predictor, 5)
    audio[3, 1] = value
    with pytest.raises(FeatureError, match=message):
        predictor.answer(video, audio, "a", vid="v")


@pytest.mark.parametrize("sound", [True, False])
def test_odd_features_are_remarked_upon(predictor, sound, recwarn):
    """A wrong scale would go unseen where the device looks at the values; usual ones would raise a warning."""
    predictor = of_usual_range(predictor)
    video, audio = draw(predictor, 5)
    audio = audio if sound else None
    predictor.answer(video, audio, "a", vid="v")
    assert not recwarn.list
    video[4, 0] = -200
    with pytest.warns(UserWarning, match=r"^v: video features: values from -200 to \S+, .*; check their scale$"):
        predictor.answer(video, audio, "a", vid="v")


def of_usual_range(predictor):
    """The predictor for features that lie between -100 and 100, and are refused beyond 1e6."""
    video, audio = (
        replace(each, usual=(-100, 100), most=1e6) for each in (predictor.rules.video, predictor.rules.audio)
    )
    return Predictor(predictor.bundle, replace(predictor.rules, video=video, audio=audio), predictor.choice)


def test_what_cannot_be_answered_is_named(predictor):
    """A traceback, or an answer made of no numbers."""
    video, audio = draw(predictor, 5)
    with pytest.raises(FeatureError, match=r"^(v|v, query 'a'): got features too large for the network"):
        predictor.answer(np.full_like(video, 3e38), audio, "a", vid="v")
    for arguments, error in (
        ({"top_k": 0}, "top_k: got 0"),
        ({"nms": 2}, "nms: got 2"),
        ({"duration": -1}, "duration: got -1"),
        ({"vid": 3}, "vid: got 3"),
        ({"qid": "x"}, "qid: got 'x'"),
    ):
        with pytest.raises(InputError, match=f"^{error}"):
            predictor.answer(video, audio, "a", **arguments)
