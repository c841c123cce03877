"""A bundle of version 0.1, with packages of the AOTInductor backend of then (``golden/bundle_of_0.1``)."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import img_deploy
from img_deploy.runtime.bundle import Bundle

QUERIES = ("a person opens the door", "zqx dog")


@pytest.fixture(scope="module")
def earlier(golden):
    """Folder of the bundle, and what the program of then was given and said."""
    return golden / "bundle_of_0.1"


def test_it_is_whole(earlier):
    """A bundle in use could not be opened after an update."""
    bundle = Bundle.open(earlier / "bundle")
    bundle.check_all()
    assert any(name.startswith("aoti/") for name in bundle.manifest.files)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_it_answers_as_it_did(earlier, backend):
    """A new version would read old weights, words or graphs in another way."""
    recorded = json.loads((earlier / "answers.json").read_text(encoding="utf-8"))
    features = load_file(earlier / "features.safetensors")
    engine = img_deploy.load_bundle(earlier / "bundle", backend=backend)
    for vid in ("long", "short", "silent"):
        video = engine.encode_video(features[f"{vid}.video"], features.get(f"{vid}.audio"))
        for text in QUERIES:
            wanted = recorded[f"{vid}: {text}"]
            answer = engine.ground(video, engine.encode_query(text), durations=30.0)
            assert (answer.head, list(answer.best.span)) == (wanted["head"], wanted["span"])
            assert list(answer.best.window) == wanted["window"]
            assert answer.best.score == pytest.approx(wanted["score"], abs=1e-5)
            assert answer.importance == pytest.approx(wanted["importance"], abs=1e-5)
            np.testing.assert_allclose(answer.saliency, wanted["saliency"], atol=1e-4)


def test_it_is_inspected_as_it_was(run_cli, earlier):
    """Its sizes, hashes, configuration or verification would be shown differently, or its dead packages not be told."""
    done = run_cli("inspect", earlier / "bundle", "--format", "json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found.pop("path") == str(earlier / "bundle")
    assert found["bundle"].pop("packages") == "no longer used (aoti)"
    assert found == json.loads((earlier / "inspection.json").read_text(encoding="utf-8"))
