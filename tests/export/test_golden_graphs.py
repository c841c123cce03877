"""The exported graphs in ONNX Runtime against values recorded from the paper's code."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.spans import decode_spans

TOLERANCE = 1e-4
CASES = sorted(Path(__file__).parents[1].glob("golden/tiny_*/case_*.safetensors"))


@pytest.fixture(scope="module")
def graphs(exported):
    """Function: run -> graph name -> ONNX model, read once."""
    read = {}

    def of(run):
        if run not in read:
            bundle = Bundle.open(exported(run))
            read[run] = {name: onnx.load(bundle.graph(name)) for name in bundle.manifest.graphs["fp32"]}
        return read[run]

    return of


def with_noise(model, checkpoint, case):
    """The grounder with the slots that a recorded case started from; its own are a constant of the graph."""
    slots = checkpoint.network().fusion.event.slot_attention
    with torch.no_grad():
        own = slots.start(1).numpy()
        slots.noise.copy_(torch.from_numpy(np.concatenate([case["in.noise_video"], case["in.noise_audio"]])))
        recorded = slots.start(1).numpy()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    places = [value for value in changed.graph.initializer if tuple(value.dims) == own.shape]
    places = [value for value in places if np.allclose(onnx.numpy_helper.to_array(value), own, atol=1e-6)]
    assert len(places) == 1, "the noise is not in the graph as one constant"
    places[0].CopyFrom(onnx.numpy_helper.from_array(recorded, places[0].name))
    return changed.SerializeToString()


def words_of(case, checkpoint):
    if "in.text" in case:
        return {"text": case["in.text"]}
    ids = case["in.word_ids"]
    table = np.concatenate([np.zeros((2, 300), np.float32), checkpoint.vocabulary.vectors])
    return {"word_vectors": table[ids], "word_unknown": ids == 1, "char_ids": case["in.char_ids"]}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded_values(path, graphs, checkpoints, session_of):
    """A fault of the exporter, or of one op's function, would move a logit of the paper's own code."""
    case, checkpoint = load_file(path), checkpoints[path.parent.name]
    models = graphs(path.parent.name)
    clip_mask = np.ones(case["in.video"].shape[:2], bool)
    words = words_of(case, checkpoint)
    if "char_ids" in words and words["char_ids"].shape[2] < 4:
        words["char_ids"] = np.pad(words["char_ids"], ((0, 0), (0, 0), (0, 4 - words["char_ids"].shape[2])))
    word_mask = np.ones(next(iter(words.values())).shape[:2], bool)
    feeds = {"video": case["in.video"], "audio": case["in.audio"], "clip_mask": clip_mask, "word_mask": word_mask}
    feeds |= words
    for name in ("video_encoder", "query_encoder"):
        feeds |= session_of(models[name].SerializeToString())(feeds)
    fused = session_of(with_noise(models["grounder"], checkpoint, case))(feeds)
    visual = session_of(models["visual_grounder"].SerializeToString())(feeds)
    expected = {
        "start_logits": ("out.start_av", fused),
        "end_logits": ("out.end_av", fused),
        "saliency": ("out.saliency_av", fused),
        "saliency_visual": ("out.saliency_v", fused),
        "saliency_audio": ("out.saliency_a", fused),
        "importance": ("out.importance", fused),
    }
    for name, (recorded, found) in expected.items():
        np.testing.assert_allclose(found[name], case[recorded].reshape(found[name].shape), atol=TOLERANCE, rtol=0)
    for name, recorded in (("start_logits", "start_v"), ("end_logits", "end_v"), ("saliency", "saliency_v")):
        np.testing.assert_allclose(visual[name], case[f"out.{recorded}"], atol=TOLERANCE, rtol=0)
    [[(first, last, _)]] = decode_spans(fused["start_logits"], fused["end_logits"], [clip_mask.shape[1]])
    assert [first, last] == case["out.span"].ravel().tolist()
