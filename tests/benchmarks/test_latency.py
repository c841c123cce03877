"""Cases of a profile: what they count, and what they are compared with."""

from dataclasses import replace

import numpy as np
import pytest

from img_deploy.benchmarks import contenders
from img_deploy.benchmarks.contenders import STAGES, ClockedBackend, Contender, Lineup, open_contenders
from img_deploy.benchmarks.latency import Agreement, Grid, agree, measure
from img_deploy.benchmarks.timing import Effort
from img_deploy.benchmarks.workload import Drawn
from img_deploy.errors import BackendError, ConfigError
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.inputs import input_rules

LIMITS = {"clips": 24, "words": 40, "chars": 40}
ONCE = Effort(repeats=2, warmup=0)


@pytest.fixture
def lineup(bundle):
    opened = open_contenders(bundle, ["torch:cpu"])
    yield opened
    opened.close()


class Altered:
    """A backend like another one, whose saliencies are off by ``shift`` and which takes no less time."""

    device, precision = "cpu", "fp32"

    def __init__(self, backend, shift, name="altered"):
        self._backend, self._shift, self.name = backend, shift, name

    def run(self, graph, feeds):
        out = self._backend.run(graph, feeds)
        return out | {"saliency": out["saliency"] + self._shift} if "saliency" in out else out

    def notes(self):
        return {"grounder: no CUDA graph": "made so by this test"}

    def close(self):
        pass


def beside(lineup, bundle, shift):
    other = Altered(lineup.contenders[0].predictor.choice.backend, shift)
    contender = Contender(bundle, input_rules(bundle), Choice(other, "made for this test"))
    return Lineup((*lineup.contenders, contender), {})


def test_every_case_of_the_grid_is_measured(lineup, bundle):
    """A batch size or length would be missing from the table."""
    workload = Drawn(input_rules(bundle), words=3)
    results = measure(lineup, workload, Grid((2, 1), (9, 4), words=3), ONCE)
    assert [(one.batch, one.clips) for one in results] == [(1, 4), (2, 4), (1, 9), (2, 9)]
    for one in results:
        assert one.latency.count == 2
        assert one.asked.p50 < one.latency.p50
        assert one.pairs_per_second == pytest.approx(1000 * one.batch / one.latency.p50)
        assert set(one.stages) == {"read", *STAGES}
        assert all(value > 0 for value in one.stages.values())


def test_eager_pytorch_beside_itself_is_neither_faster_nor_different(lineup, bundle):
    """The baseline would be compared with something else than itself."""
    (one,) = measure(lineup, Drawn(input_rules(bundle), 3), Grid((1,), (4,), 3), ONCE)
    assert (one.backend, one.ratio.p50, one.difference, one.same_spans) == ("torch:cpu", 1.0, 0.0, 1.0)


@pytest.mark.parametrize(("shift", "compared"), [(1e-5, True), (0.5, False)])
def test_a_backend_whose_answers_differ_gets_no_ratio(lineup, bundle, shift, compared):
    """Wrong answers would be sold as fast ones."""
    both = beside(lineup, bundle, np.float32(shift))
    eager, other = measure(both, Drawn(input_rules(bundle), 3), Grid((2,), (6,), 3), ONCE)
    assert eager.ratio is not None
    assert (other.ratio is not None) is compared
    assert (other.asked_ratio is not None) is compared
    if compared:
        assert other.difference == pytest.approx(shift, rel=0.1)


def test_reduced_precision_may_differ_more():
    """fp16 would never be compared, or a broken fp32 backend would be."""
    assert Agreement(1e-2, 1.0).within("fp16")
    assert not Agreement(1e-2, 1.0).within("fp32")
    assert not Agreement(0.5, 1.0).within("fp16")
    assert not Agreement(float("nan"), 1.0).within("fp16")


def test_agreement_sees_importance_and_spans(lineup, bundle):
    """A backend that gets the weight of sound or the moment wrong would count as equal."""
    (inputs, *_) = Drawn(input_rules(bundle), 3).sets(2, 6)
    answers = lineup.contenders[0].answers(inputs)
    off = replace(answers[0], importance=answers[0].importance + 0.25)
    assert agree(answers, [off, answers[1]]).difference == pytest.approx(0.25)
    span = (answers[0].best.span[0], answers[0].best.span[1] + 1)
    moved = replace(answers[0], moments=(replace(answers[0].best, span=span),))
    assert agree(answers, [moved, answers[1]]).same_spans == 0.5


def test_graph_time_is_clocked_apart(bundle, lineup):
    """Stacking and decoding would be charged to the network."""
    clocked = ClockedBackend(lineup.contenders[0].predictor.choice.backend)
    assert clocked.spent == 0
    contender = lineup.contenders[0]
    stages = contender.time(Drawn(input_rules(bundle), 3).sets(1, 6)[0])
    assert 0 < stages["decode"] < stages["ground"]


def test_eager_pytorch_is_timed_beside_what_was_asked_for(bundle, monkeypatch):
    """`--backend onnxruntime` would have nothing to be compared with."""
    real = contenders.choose

    def choose(opened, name, threads=None):
        if name == "other:cpu":
            return Choice(Altered(real(opened, "torch:cpu").backend, 0, "other"), "as asked for")
        return real(opened, name, threads)

    monkeypatch.setattr(contenders, "choose", choose)
    opened = open_contenders(bundle, ["other:cpu"])
    assert [one.label for one in opened.contenders] == ["torch:cpu", "other:cpu"]
    assert opened.baseline_of(opened.contenders[1]) is opened.contenders[0]
    opened.close()


def test_without_names_all_that_work_are_taken_and_the_others_have_a_reason(bundle):
    """A backend would be missing from the table without a word."""
    opened = open_contenders(bundle)
    labels = {one.label for one in opened.contenders}
    assert "torch:cpu" in labels
    assert "no fp32 ONNX graphs" in opened.out["onnxruntime:cpu"]
    opened.close()


def test_a_backend_asked_for_by_name_must_work(bundle):
    """The table would leave it out, and its user would read the others' figures."""
    with pytest.raises(BackendError, match="no fp32 ONNX graphs"):
        open_contenders(bundle, ["onnxruntime:cpu"])


def test_one_backend_asked_for_twice_is_timed_once(bundle):
    """Its rows would come twice, each of half the worth."""
    opened = open_contenders(bundle, ["torch:cpu", "torch:cpu"])
    assert [one.label for one in opened.contenders] == ["torch:cpu"]
    opened.close()


def test_all_that_does_not_fit_the_bundle_is_named_at_once():
    """The user would mend one option after the other."""
    with pytest.raises(ConfigError) as raised:
        Grid((0,), (4, 99), words=41).fitted(LIMITS, longest=24)
    assert "batch size 0" in str(raised.value)
    assert "99 clips: expected 1 to 24" in str(raised.value)
    assert "41 words: expected 1 to 40" in str(raised.value)


def test_lengths_nobody_asked_for_are_shortened_to_the_longest():
    """The default lengths would be refused by every bundle and folder of shorter videos."""
    grid = Grid(clips=(16, 32, 64, 128), shorten=True).fitted(LIMITS, longest=24)
    assert grid.clips == (16, 24)
