"""Nothing that disagrees with the eager network is shipped."""

import json

import numpy as np
import pytest

from img_deploy.errors import AnnotationError, FeatureError, InputError, VerificationError
from img_deploy.export import verify
from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint
from img_deploy.export.samples import LENGTHS, WORDS, drawn_samples, folder_samples
from img_deploy.export.verify import FULL_SCALE, Budget, Verification, compare, in_run_order, results
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.protocol import on_host
from img_deploy.runtime.backends.torch.backend import TorchBackend
from img_deploy.runtime.bundle import Bundle

SIZES = dict.fromkeys(GRAPH_NAMES, 1000)


class Off:
    """The eager network with one output moved."""

    name, device, precision = "off", "cpu", "fp32"

    def __init__(self, network, graph, output, change):
        self._eager, self._place, self._change = TorchBackend(network), (graph, output), change

    def run(self, graph, feeds):
        out = self._eager.run(graph, feeds)
        if graph == self._place[0]:
            out[self._place[1]] = self._change(on_host(out[self._place[1]]).copy())
        return out


class DoublyOff:
    """The eager network with two outputs of the grounder moved."""

    name, device, precision = "off", "cpu", "fp32"

    def __init__(self, network, *changes):
        self._eager, self._changes = TorchBackend(network), changes

    def run(self, graph, feeds):
        out = self._eager.run(graph, feeds)
        return {**out, **{name: change(out[name]) for name, change in self._changes}} if graph == "grounder" else out


@pytest.fixture(scope="module")
def network(checkpoints):
    return checkpoints["tiny_vlm"].network()


@pytest.fixture(scope="module")
def samples(network):
    return in_run_order(drawn_samples(network.config, None, seed=1))


@pytest.fixture(scope="module")
def reference(network, samples):
    return results(TorchBackend(network), samples, batch_size=1)


def shifted(amount):
    return lambda values: values + np.float32(amount)


def one_clip(values):
    """Only the last real clip of the longest video is wrong."""
    values[np.unravel_index(np.argmax(values), values.shape)] -= 3
    return values


@pytest.mark.parametrize(
    ("graph", "output"),
    [
        ("video_encoder", "visual_clips"),
        ("query_encoder", "audio_words"),
        ("grounder", "start_logits"),
        ("grounder", "importance"),
        ("grounder", "saliency_audio"),
        ("visual_grounder", "end_logits"),
    ],
)
def test_an_output_that_is_off_fails_its_graph(network, samples, reference, graph, output):
    """A wrong artifact would ship. An encoder's fault may show further on as well, never only there."""
    rows = compare(Off(network, graph, output, shifted(3e-4)), samples, reference, SIZES)
    assert graph in {row.graph for row in rows if not row.passed}
    assert all(row.passed for row in rows if row.graph != graph and "encoder" not in graph)


def test_the_eager_network_passes(network, samples, reference):
    """A test that refuses everything would pass the one above."""
    rows = compare(Off(network, "grounder", "saliency", shifted(0)), samples, reference, SIZES)
    assert [row.graph for row in rows] == list(GRAPH_NAMES)
    assert all(row.passed for row in rows)
    assert all(row.agreement == row.iou == 1.0 for row in rows if "grounder" in row.graph)


def test_a_moved_span_is_counted(network, samples, reference):
    """Agreement of spans would be reported where there is none."""
    rows = compare(Off(network, "grounder", "start_logits", one_clip), samples, reference, SIZES, (64,))
    row = next(row for row in rows if row.graph == "grounder")
    assert 0 < row.agreement < 1
    assert row.iou < 1
    assert row.largest == pytest.approx(3, abs=1e-3)


def test_large_outputs_are_held_in_proportion(network, samples):
    """A network with logits in the hundreds, whose last digits no float32 program shares, could never be exported."""
    loud = results(Off(network, "grounder", "saliency", lambda values: 1000 * values), samples, batch_size=1)
    peak = max(np.abs(one.outputs["grounder"]["saliency"]).max() for one in loud if "grounder" in one.outputs)
    assert peak > 10 * FULL_SCALE
    allowed = 1e-4 * peak / FULL_SCALE
    for share, passes in ((0.8, True), (1.2, False)):
        off = Off(network, "grounder", "saliency", lambda values, by=share * allowed: 1000 * values + np.float32(by))
        row = next(row for row in compare(off, samples, loud, SIZES, (1,)) if row.graph == "grounder")
        assert row.allowed == pytest.approx(allowed)
        assert row.passed is passes
    quiet = DoublyOff(network, ("saliency", lambda values: 1000 * values), ("importance", shifted(3e-4)))
    row = next(row for row in compare(quiet, samples, loud, SIZES, (1,)) if row.graph == "grounder")
    assert not row.passed  # a loud output is no excuse for another
    assert row.allowed == 1e-4


@pytest.mark.parametrize("output", ["saliency", "end_logits"])
def test_not_a_number_does_not_pass(network, samples, reference, output):
    """NaN compares as neither larger nor smaller, and would slip through a threshold; or the features be blamed."""
    with pytest.raises(VerificationError, match="backend off, fp32: has no finite result"):
        compare(Off(network, "grounder", output, shifted(np.nan)), samples, reference, SIZES)


def test_what_the_samples_cover(samples, network):
    """Lengths at which a graph breaks (1, the longest) or a mixture of silent and sounding videos would go untried."""
    lengths = {len(sample.clips.video) for sample in samples}
    longest = network.config.max_clips
    assert {min(length, longest) for length in (*LENGTHS, longest)} <= lengths
    assert {len(sample.query.content) for sample in samples} == set(WORDS)
    assert {sample.clips.audio is None for sample in samples} == {True, False}


def test_samples_depend_on_the_seed_alone(checkpoints):
    """Two exports of one checkpoint could not be compared."""
    checkpoint = checkpoints["tiny_glove"]

    def draw(seed):
        return drawn_samples(checkpoint.config, checkpoint.vocabulary, seed)

    first, again, other = draw(1), draw(1), draw(2)
    assert all(np.array_equal(a.clips.video, b.clips.video) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].clips.video, other[0].clips.video)
    vectors = [sample.query.content for sample in first]
    assert any(words.word_unknown.any() for words in vectors)
    assert any(not words.word_unknown.any() for words in vectors)


def feature_folder(path, sound=True):
    rng = np.random.default_rng(0)
    for kind, width in (("video", 24), ("audio", 20))[: 2 if sound else 1]:
        (path / kind).mkdir(parents=True)
        for clips in (1, 5, 30):
            np.save(path / kind / f"v{clips}.npy", rng.standard_normal((clips, width), np.float32))
    return path


def test_samples_of_a_folder(checkpoints, tmp_path):
    """`--samples` would try something else than the user's own features."""
    found = folder_samples(feature_folder(tmp_path / "features"), checkpoints["tiny_glove"], 0)
    heard = [sample for sample in found if sample.clips.audio is not None]
    assert [(sample.clips.vid, len(sample.clips.video)) for sample in heard] == [("v1", 1), ("v5", 5), ("v30", 16)]
    # The graph for videos without sound is tried even where every video has sound.
    assert [sample.clips.vid for sample in found if sample not in heard] == ["v1"]
    with pytest.raises(FeatureError, match="wanted"):
        folder_samples(tmp_path, checkpoints["tiny_glove"], 0)


def test_samples_under_their_own_queries(checkpoints, tmp_path):
    """A precision would be judged on sentences that nobody asks."""
    folder = feature_folder(tmp_path / "features")
    lines = [
        "v5 1.0 2.0##qid_3##w001 w002",
        "v5 0.0 2.0##qid_4##w009",
        "v30 0.0 9.0##qid_5##w003",
        "gone 0 1##qid_6##w1",
    ]
    (tmp_path / "own_qid.txt").write_text("\n".join(lines))
    found = folder_samples(folder, checkpoints["tiny_glove"], 0, tmp_path / "own_qid.txt")
    assert [(sample.clips.vid, sample.query.sentence, sample.query.qid) for sample in found] == [
        ("v5", "w001 w002", 3),
        ("v30", "w003", 5),
        ("v5", "w001 w002", 3),
    ]
    assert [sample.clips.audio is None for sample in found] == [False, False, True]
    (tmp_path / "other_qid.txt").write_text(lines[-1])
    with pytest.raises(AnnotationError, match="names none of the videos"):
        folder_samples(folder, checkpoints["tiny_glove"], 0, tmp_path / "other_qid.txt")
    with pytest.raises(InputError, match="give --samples too"):
        ExportOptions(sample_queries=tmp_path / "own_qid.txt")


@pytest.mark.usefixtures("quick_graphs")
def test_a_failed_verification_keeps_the_old_bundle(checkpoints, tmp_path, monkeypatch):
    """A user would lose the bundle that worked, or get one that does not."""
    out = tmp_path / "deploy"
    bundle_from_checkpoint(checkpoints["tiny_glove"], out)
    before = (out / "manifest.json").read_bytes()
    shown = []
    monkeypatch.setitem(verify.BUDGETS, "fp32", Budget(largest=1e-9, agreement=1.0, iou=0.0))
    with pytest.raises(VerificationError, match=r"onnxruntime fp32 grounder: off by .* expected at most 1e-09"):
        bundle_from_checkpoint(checkpoints["tiny_glove"], out, show=shown.append)
    assert [verification.passed for verification in shown] == [False]
    assert (out / "manifest.json").read_bytes() == before
    Bundle.open(out).check_all()
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


@pytest.mark.usefixtures("quick_graphs")
def test_graphs_of_other_weights_do_not_pass(checkpoints, tmp_path):
    """Old ONNX files beside new weights would go unnoticed."""
    import copy

    checkpoint = copy.copy(checkpoints["tiny_glove"])
    weights = dict(checkpoint.weights)
    weights["predictor.end.0.bias"] = weights["predictor.end.0.bias"] + 0.05
    checkpoint.weights = weights
    with pytest.raises(VerificationError, match="onnxruntime fp32 grounder"):
        bundle_from_checkpoint(checkpoint, tmp_path / "deploy")
    assert not (tmp_path / "deploy").exists()


def test_the_bundle_holds_its_verification(exported):
    """A user could not see what a bundle was tried on."""
    manifest = Bundle.open(exported("tiny_vlm")).manifest
    verification = Verification.from_dict(manifest.verification)
    assert verification.passed
    assert {(row.backend, row.graph) for row in verification.rows} == {
        (backend, graph) for backend in ("onnxruntime", "torch") for graph in GRAPH_NAMES
    }
    assert Verification.from_dict(json.loads(json.dumps(verification.as_dict()))) == verification
    assert "| onnxruntime | fp32 | grounder |" in (exported("tiny_vlm") / "verification.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ("fp8",)}, "precision: got 'fp8'"),
        ({"precisions": ()}, "precision: got none"),
        ({"precisions": ("fp32", "fp32")}, "each once"),
        ({"targets": ("coreml",)}, "target: got 'coreml', expected one or more of onnx"),
    ],
)
def test_wrong_options(options, message):
    """An export would fail minutes later, or leave out what was asked for."""
    with pytest.raises(InputError, match=message):
        ExportOptions(**options)
