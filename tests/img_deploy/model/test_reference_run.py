"""Importing a run of the paper's code: what it becomes, and what is said of a run that does not fit."""

import json
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch

from img_deploy.errors import CheckpointError, FeatureError, InputError
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.model.reference_run import ImportOptions, import_run

GLOVE = "tiny_glove"
BIAS = "saliency_proj_v.bias"


@pytest.fixture
def run(golden, tmp_path):
    """A writable copy of the small GloVe run."""
    return shutil.copytree(golden / GLOVE, tmp_path / "run", ignore=shutil.ignore_patterns("case_*"))


def edit(run, change):
    path = run / "IMG_100.t7"
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def test_a_run_becomes_one_file_that_loads_safely(run, tmp_path):
    """best.pt must need nothing beside it, and hold nothing but tensors and plain values."""
    made = import_run(run, run / "dataset.pkl").checkpoint
    made.save(tmp_path / "best.pt")
    shutil.rmtree(run)
    assert isinstance(torch.load(tmp_path / "best.pt", weights_only=True), dict)
    read = Checkpoint.load(tmp_path / "best.pt")
    assert read.config == made.config
    assert list(read.vocabulary.words) == list(made.vocabulary.words)
    assert np.array_equal(read.vocabulary.vectors, made.vocabulary.vectors)
    for name, tensor in made.network().state_dict().items():
        assert torch.equal(tensor, read.network().state_dict()[name]), name


def test_the_noise_is_drawn_from_the_recorded_seed(run):
    """Without a recorded seed nobody could make the same model twice."""
    noise = "fusion.event.slot_attention.noise"
    first = import_run(run, run / "dataset.pkl", ImportOptions(noise_seed=7)).checkpoint
    again = import_run(run, run / "dataset.pkl", ImportOptions(noise_seed=7)).checkpoint
    other = import_run(run, run / "dataset.pkl", ImportOptions(noise_seed=8)).checkpoint
    assert first.noise_seed == 7
    assert torch.equal(first.weights[noise], again.weights[noise])
    assert not torch.equal(first.weights[noise], other.weights[noise])


def test_the_highest_step_is_taken(run):
    """A run keeps several steps; 1000 comes after 200 as a number, not as text."""
    shutil.copy(run / "IMG_100.t7", run / "IMG_200.t7")
    shutil.copy(run / "IMG_100.t7", run / "IMG_1000.t7")
    assert import_run(run, run / "dataset.pkl").checkpoint.provenance["imported_from"] == "IMG_1000.t7"


def test_the_variant_is_told_by_the_tensors(golden):
    """configs.json carries text_feature_dim in every run, so it cannot tell the variant."""
    made = import_run(golden / "tiny_vlm").checkpoint
    assert (made.config.variant, made.config.text_dim, made.vocabulary) == ("tokens", 18, None)


def test_sizes_that_no_tensor_tells_have_defaults(run):
    """An old run without these keys must still import (heads 8 divide the width 32)."""
    path = run / "configs.json"
    settings = json.loads(path.read_text())
    for key in ("num_heads", "event_num", "slot_layers"):
        del settings[key]
    path.write_text(json.dumps(settings))
    config = import_run(run, run / "dataset.pkl").checkpoint.config
    assert (config.heads, config.slots, config.slot_iterations) == (8, 3, 3)


def test_stale_settings_are_remarked_not_believed(run):
    """A stale width in configs.json must not change the model."""
    path = run / "configs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dim": 64}))
    made = import_run(run, run / "dataset.pkl")
    assert made.checkpoint.config.dim == 32
    assert made.remarks == ["configs.json says dim 64, the tensors say 32: the tensors are used"]


def test_wrapped_and_parallel_state_dicts_are_read(run):
    """Any state_dict file: inside a training checkpoint, or with DataParallel's prefix."""
    path = run / "IMG_100.t7"
    tensors = torch.load(path, weights_only=True)
    torch.save({"state_dict": OrderedDict((f"module.{k}", v) for k, v in tensors.items()), "epoch": 3}, path)
    assert import_run(run, run / "dataset.pkl").checkpoint.config.dim == 32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("transformera.query.conv1d.weight"), "missing tensor transformera.query.conv1d.weight"),
        (lambda t: t.update(surprise=torch.zeros(1)), "unknown tensor surprise"),
        (lambda t: t.update({"saliency_proj_v.weight": torch.zeros(1, 5)}), "saliency_proj_v.weight (1, 5)"),
        (lambda t: t["saliency_proj_v.bias"].fill_(float("nan")), "saliency_proj_v.bias holds NaN"),
        (lambda t: t.pop("video_affine.linear.conv1d.weight"), "video_affine.linear.conv1d.weight"),
        (lambda t: t.pop("word_embeddinga.word_emb.glove_vec"), "missing tensor word_embeddinga.word_emb.glove_vec"),
        (lambda t: t.update({"video_affine.linear.conv1d.weight": torch.zeros(())}), "video_affine.linear.conv1d.weig"),
        (lambda t: t.update({BIAS: t[BIAS].int()}), f"{BIAS} is int32"),
        (lambda t: t.update({BIAS: t[BIAS].to(torch.complex64)}), f"{BIAS} is complex64"),
        (lambda t: t.update({BIAS: t[BIAS].to_sparse()}), f"{BIAS} is a tensor without plain data"),
        (lambda t: t.update({BIAS: t[BIAS].to("meta")}), f"{BIAS} is a tensor without plain data"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(run, change, said):
    """A silently skipped tensor would leave random weights in the model."""
    edit(run, change)
    with pytest.raises(CheckpointError) as error:
        import_run(run, run / "dataset.pkl")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_wrong_vocabulary_is_refused(run, golden):
    """Words would silently get other words' vectors."""
    with pytest.raises(CheckpointError, match="wrong dataset"):
        import_run(run, golden / "tiny_glove_deep" / "dataset.pkl")
    with pytest.raises(CheckpointError, match="--dataset"):
        import_run(run)


def test_code_in_a_pickle_is_refused_and_not_run(run, tmp_path):
    """A dataset or a checkpoint from the internet may carry code."""
    flag = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (open, (str(flag), "w"))

    (run / "dataset.pkl").write_bytes(pickle.dumps({"word_dict": Bomb()}))
    with pytest.raises(FeatureError):
        import_run(run, run / "dataset.pkl")
    (run / "IMG_100.t7").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        import_run(run, run / "dataset.pkl")
    assert not flag.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"hello", "a text file"),
        (b"PK\x03\x04broken", "a damaged or foreign file"),
        (b"\x80\x02(((", "a damaged or foreign file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(run, content, told):
    """Empty, text and truncated files end in a traceback, or in another library's advice."""
    (run / "IMG_100.t7").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"IMG_100\.t7: got {told}"):
        import_run(run, run / "dataset.pkl")


def test_a_whole_pickled_module_is_explained(run):
    """torch.save(model) instead of its state_dict is a common mistake; PyTorch's message advises to run the file."""
    torch.save(torch.nn.Linear(2, 2), run / "IMG_100.t7")
    with pytest.raises(CheckpointError, match=r"objects other than tensors \(torch\.nn.*nothing in it was run"):
        import_run(run, run / "dataset.pkl")


def test_best_pt_is_not_imported_again(run, tmp_path):
    """A user who imports best.pt would be told of a missing tensor."""
    import_run(run, run / "dataset.pkl").checkpoint.save(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint of this program already.*img-deploy export"):
        import_run(tmp_path / "best.pt")


def test_other_files_beside_the_weights_are_passed_over(run):
    """A higher number in the name of an optimizer's state would be taken for the highest step."""
    torch.save({"step": torch.zeros(1)}, run / "optimizer_9999.t7")
    assert import_run(run, run / "dataset.pkl").checkpoint.provenance["imported_from"] == "IMG_100.t7"


def test_weights_saved_in_half_precision_are_read(run):
    """A run shrunk for download would be taken for another vocabulary's."""
    tensors = torch.load(run / "IMG_100.t7", weights_only=True)
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, run / "IMG_100.t7")
    made = import_run(run, run / "dataset.pkl").checkpoint
    assert {tensor.dtype for tensor in made.weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"num_heads": 5}, "multiple of heads"),
        ({"num_heads": True}, "num_heads is True"),
        ({"num_heads": "4"}, "num_heads is '4'"),
        ({"event_num": 10**9}, "slots is 1000000000, expected a whole number from 1 to"),
        ({"slot_layers": -1}, "slot_iterations is -1"),
        ({"drop_rate": None}, "dropout is None"),
        ({"drop_rate": "much"}, "dropout is 'much'"),
    ],
)
def test_settings_that_cannot_be_are_refused(run, setting, told):
    """What no tensor tells must not pass unseen: heads, slots and rounds are read from configs.json alone."""
    path = run / "configs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(InputError, match=told) as error:
        import_run(run, run / "dataset.pkl")
    assert "configs.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"word_dict": ["a"]}, "word_dict: expected ids"),
        ({"word_dict": {"a": 0, "b": "1"}}, "word_dict: expected ids"),
        ({"char_dict": {"a": 0, "b": 0}}, "char_dict: expected ids"),
        ({"word_vector": [[1.0], [1.0, 2.0]]}, "word_vector is not a matrix"),
        ({"word_vector": None}, "word_vector is"),
        ({"char_dict": {f"k{number}": number for number in range(30)}}, "several characters"),
        ({"word_dict": {number: number for number in range(30)}}, "something else than text"),
    ],
)
def test_a_vocabulary_of_another_make_is_refused(run, change, told):
    """A dataset that another program pickled ends in a traceback."""
    content = pickle.loads((run / "dataset.pkl").read_bytes())
    (run / "dataset.pkl").write_bytes(pickle.dumps(content | change))
    with pytest.raises(CheckpointError, match=told) as error:
        import_run(run, run / "dataset.pkl")
    assert "dataset.pkl" in str(error.value)


def test_an_empty_folder_and_a_missing_one_are_explained(tmp_path):
    """The message says what was looked for."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"IMG_<step>\.t7"):
            import_run(path)


def test_best_pt_of_another_kind_is_refused(run, tmp_path):
    """`export --ckpt IMG_100.t7` must point to `import`; a newer schema must not be guessed at."""
    with pytest.raises(CheckpointError, match="img-deploy import"):
        Checkpoint.load(run / "IMG_100.t7")
    import_run(run, run / "dataset.pkl").checkpoint.save(tmp_path / "best.pt")
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    torch.save(content | {"schema": 99}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="schema 99"):
        Checkpoint.load(tmp_path / "newer.pt")
    torch.save({key: value for key, value in content.items() if key != "weights"}, tmp_path / "torn.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint.load(tmp_path / "torn.pt")
    with pytest.raises(CheckpointError, match="folder"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": None},
        {"weights": {BIAS: 5}},
        {"weights": {BIAS: torch.zeros(1, device="meta")}},
        {"weights": {BIAS: torch.zeros(1, dtype=torch.int64)}},
        {"features": {}},
        {"features": {"video": {}, "audio": {}}},
        {"features": {"video": "i3d", "audio": "panns"}},
        {"noise_seed": "0"},
        {"vocabulary": {}},
        {"provenance": "a run"},
        {"provenance": {5: 6}},
        {"metrics": {"a": torch.zeros(3)}},
        {"schema": torch.zeros(3)},
    ],
    ids=lambda change: "-".join(f"{key} {value!r}"[:30] for key, value in change.items()),
)
def test_a_checkpoint_of_odd_parts_is_refused(run, tmp_path, change):
    """`inspect` and `export` would end in a traceback, the latter after minutes."""
    import_run(run, run / "dataset.pkl").checkpoint.save(tmp_path / "best.pt")
    torch.save(torch.load(tmp_path / "best.pt", weights_only=True) | change, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: (damaged|got) checkpoint"):
        Checkpoint.load(tmp_path / "odd.pt")
