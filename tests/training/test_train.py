"""Training runs of a few steps: what they write, and that they are repeatable, resumable and stop when they must."""

import json
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from img_deploy.errors import CheckpointError, ConfigError, InputError
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.model.stacked import StackedNetwork
from img_deploy.training.checkpoint_callback import CheckpointCallback, StateFile, is_evaluated
from img_deploy.training.data import split_by_video
from img_deploy.training.datasets import prepare
from img_deploy.training.lit_module import GroundingModule, NonFiniteLoss, loss_config
from img_deploy.training.loader import StepBatches
from img_deploy.training.run_folder import RunFolder
from img_deploy.training.train import new_network, train


class Interrupted(Exception):
    """Stands for a power cut: nothing of the run is told to stop."""


def stop_at(step):
    def listener(progress):
        if progress.step == step:
            raise Interrupted

    return listener


def first_step(config):
    """The module of a run and its first batch."""
    datasets = prepare(config)
    batches = StepBatches(datasets.data, datasets.train, config.batch_size, config.seed)
    return GroundingModule(new_network(config, datasets.data), config, 100, batches.epoch_steps), batches[0]


def weights(folder, name="best.pt"):
    return Checkpoint.load(folder / name).weights


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def six_steps(tiny_config):
    """Settings of two epochs, evaluated after steps 2, 3, 5 and 6."""
    return tiny_config(evaluations=2, save_every=4)


@pytest.fixture(scope="module")
def whole_runs():
    return {}


@pytest.fixture
def whole(six_steps, whole_runs, tmp_path_factory):
    """The finished run of these settings, made once. Copy it to change it."""
    if six_steps not in whole_runs:
        whole_runs[six_steps] = tmp_path_factory.mktemp("whole") / "run"
        train(six_steps, whole_runs[six_steps])
    return whole_runs[six_steps]


def test_the_loss_of_the_first_steps(tiny_config, tmp_path):
    """A change of the network, the objective, the data or the optimiser shows as other losses."""
    losses = []
    config = tiny_config(dropout=0.0)
    train(config, tmp_path / "run", listener=lambda progress: losses.append(progress.loss))
    np.testing.assert_allclose(losses, [54.7503, 37.8238, 39.5772, 38.8241, 31.1977, 28.8925], rtol=2e-3)


def test_a_run_leaves_what_it_promises(six_steps, whole):
    """Settings, checkpoints, logs and card are what a user comes back to."""
    config, run = six_steps, whole
    names = {path.name for path in run.iterdir()}
    assert {"best.pt", "config.yaml", "resume.ckpt", "logs", "card.json", "card.md"} <= names
    assert sorted(name for name in names if name.startswith("last-")) == [f"last-{step:07d}.pt" for step in (3, 5, 6)]
    checkpoint = Checkpoint.load(run / "best.pt")
    card = json.loads((run / "card.json").read_text())
    assert checkpoint.metrics["fused/R1@0.7"] == max(row["fused/R1@0.7"] for row in card["history"])
    assert checkpoint.features == {"video": {"name": "plain", "width": 24}, "audio": {"name": "plain", "width": 20}}
    assert checkpoint.provenance["config"] == config.model_dump()
    assert card["data"]["training_queries_without_audio_left_out"] == 6
    assert "held out" in card["protocol"]
    assert list((run / "logs").glob("events*"))
    checkpoint.network()


def test_logs_hold_every_loss_the_importance_and_the_scores(tiny_config, tmp_path):
    """A run whose log lacks a term cannot be judged afterwards."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_config(log_every=1, steps=1), tmp_path / "run")
    log = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    scalars, histograms = set(log.Tags()["scalars"]), set(log.Tags()["histograms"])
    terms = {"total", "location_fused", "location_visual", "location_audio", "saliency_fused", "saliency_visual"}
    terms |= {"saliency_audio", "distill_visual", "distill_audio", "importance"}
    assert {f"loss/{term}" for term in terms} <= scalars
    assert {f"evaluation/{head}/R1@0.7" for head in ("fused", "visual", "audio")} <= scalars
    assert {"importance/predicted", "importance/label", "evaluation/importance"} <= histograms


def test_another_seed_gives_another_network(tiny_config, whole, tmp_path):
    """Three seeds that are one would make an interval of nothing."""
    train(tiny_config(steps=1, seed=1), tmp_path / "other")
    assert not torch.equal(weights(tmp_path / "other")["saliency.weight"], weights(whole)["saliency.weight"])


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(six_steps, whole, tmp_path, step):
    """Dropout, slot noise, order of the queries, learning rate, optimiser, best score so far: all must come back.

    Step 3 ends an epoch and is evaluated. Step 1 left no state, so all is done again: to the same bits, or a result
    that cannot be had again cannot be checked.
    """
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(six_steps, run, listener=stop_at(step))
    train(six_steps, run, resume=True)
    for name in ("best.pt", "last-0000006.pt"):
        assert_same_weights(weights(run, name), weights(whole, name))
    cards = [json.loads((folder / "card.json").read_text()) for folder in (run, whole)]
    assert cards[0]["history"] == cards[1]["history"]
    assert cards[0]["test"] == cards[1]["test"]


def test_a_killed_process_goes_on_to_the_same_weights(six_steps, whole, tmp_path):
    """kill -9 leaves no time to save anything."""
    run = tmp_path / "run"
    file = tmp_path / "settings.yaml"
    six_steps.save(file)
    command = [sys.executable, "-m", "img_deploy.cli.main", "train", "--config", str(file), "--out", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "resume.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    train(six_steps, run, resume=True)
    assert_same_weights(weights(run), weights(whole))


def test_an_interrupted_run_says_so(tiny_config, tmp_path):
    """Ctrl-C is no failure: a script that asks for 130 would try again."""

    def interrupt(_progress):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(), tmp_path / "run", listener=interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_two_processes_train_one_run(tiny_config, tmp_path):
    """On several devices each process begins the run: the second must not find it taken, nor write its files."""
    file, run = tmp_path / "settings.yaml", tmp_path / "run"
    tiny_config(devices=2, strategy="ddp", steps=3).save(file)
    command = [sys.executable, "-m", "img_deploy.cli.main", "train", "--config", str(file), "--out", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scores on the test split") == 1
    assert done.stderr.count("queries on 2 videos without sound are left out") == 1
    card = json.loads((run / "card.json").read_text())
    assert [row["step"] for row in card["history"]] == [3]
    assert Checkpoint.load(run / "best.pt").provenance["config"]["devices"] == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains_and_keeps_float32_weights(tiny_config, tmp_path, precision):
    """A checkpoint in half precision would be exported as such, and its masks would overflow."""
    losses = []
    config = tiny_config(precision=precision, steps=3)
    result = train(config, tmp_path / "run", listener=lambda progress: losses.append(progress.loss))
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert {tensor.dtype for tensor in weights(result.run).values()} == {torch.float32}


def test_reading_of_the_glove_file_is_told(tiny_config, tmp_path, monkeypatch):
    """5.6 GB of word vectors without a word to the user look like a program that hangs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = []
    prepare(tiny_config(), glove_progress=lambda *place: told.append(place))
    assert told
    assert told[-1][0] == told[-1][1]
    again = []
    prepare(tiny_config(), glove_progress=lambda *place: again.append(place))
    assert len(again) == 1  # kept from the first time


def test_a_finished_run_is_resumed_without_harm(six_steps, whole):
    """--resume in a script that is run twice must not train on, nor lose the card."""
    run = whole
    before = weights(run)
    cards = [(run / name).read_bytes() for name in ("card.json", "card.md")]
    result = train(six_steps, run, resume=True)
    assert_same_weights(weights(run), before)
    assert result.card["history"] == json.loads(cards[0])["history"]
    assert [(run / name).read_bytes() for name in ("card.json", "card.md")] == cards  # its speed is not 0 now


def test_a_damaged_state_is_one_clear_error(six_steps, whole, tmp_path):
    """A state cut short by a full disk must not be a traceback of torch."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    state = run / "resume.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"resume\.ckpt: cannot be read"):
        train(six_steps, run, resume=True)


def test_a_state_of_another_network_is_one_clear_error(six_steps, whole, tmp_path):
    """Where config.yaml was edited, Lightning's list of misfitting tensors is no answer."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with pytest.raises(CheckpointError, match=r"resume\.ckpt: got network\..* by config\.yaml and the data"):
        train(six_steps.model_copy(update={"dim": six_steps.dim * 2}), run, resume=True)


@pytest.mark.parametrize("changes", [{"accelerator": "abacus"}, {"strategy": "divide"}])
def test_what_lightning_refuses_is_one_clear_error_and_leaves_no_run(tiny_config, tmp_path, changes):
    """A misspelt accelerator was a traceback, and a folder that the next attempt found taken."""
    with pytest.raises(ConfigError, match=r"abacus|divide"):
        train(tiny_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_the_state_before_and_is_told_by_file(tmp_path, monkeypatch):
    """A message that names no file, or one in /tmp, tells nobody which disk is full."""
    state = tmp_path / "resume.ckpt"
    StateFile().save_checkpoint({"global_step": 1}, state)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("img_deploy.files.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*resume\.ckpt"):
        StateFile().save_checkpoint({"global_step": 2}, state)
    assert [path.name for path in tmp_path.iterdir()] == ["resume.ckpt"]
    assert torch.load(state, weights_only=True) == {"global_step": 1}


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tiny_config, tmp_path, narrow_data):
    """Training on after a NaN wastes days; without names nobody finds the video."""
    broken = tmp_path / "data"
    shutil.copytree(narrow_data, broken)
    vid = prepare(tiny_config()).train.vids[0]
    path = broken / "features" / "charades" / "i3d_video" / f"{vid}.npy"
    np.save(path, np.full_like(np.load(path), 3e38))
    with pytest.raises(NonFiniteLoss, match=r"step \d+: got loss nan") as caught:
        train(tiny_config(data=str(broken)), tmp_path / "run")
    batch, _, blamed = str(caught.value).partition("; not finite are the answers to ")
    assert batch.count("(") == 17  # 16 queries, and what is not finite
    assert blamed.count("(") == blamed.count(f"({vid})") > 0


def test_a_gpu_takes_the_stacked_network(tiny_config, monkeypatch):
    """Forgotten, a step would launch twice as much; with another loss or gradient it would train another network."""
    module, batch = first_step(tiny_config(dropout=0.0))
    calls, real = [], StackedNetwork.__call__

    def noted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(StackedNetwork, "__call__", noted)
    module.train()
    found = []
    for on_cpu in (True, False):
        monkeypatch.setattr(torch.Tensor, "is_cpu", on_cpu)
        module.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        module.on_after_backward()
        found.append((loss, {name: parameter.grad for name, parameter in module.named_parameters()}))
        assert len(calls) == (not on_cpu)
    (loss, gradients), (stacked_loss, stacked) = found
    torch.testing.assert_close(stacked_loss, loss, atol=0, rtol=1e-5)
    largest = max(grad.abs().max() for grad in gradients.values())
    for name, grad in gradients.items():
        torch.testing.assert_close(stacked[name], grad, atol=float(1e-5 * largest), rtol=1e-3)


def test_an_existing_run_is_not_overwritten(six_steps, whole):
    """Ten days of training under the same name."""
    with pytest.raises(ConfigError, match="holds a training run; continue it with --resume"):
        train(six_steps, whole)


def test_validation_videos_are_not_trained_on(tiny_config):
    """A validation split by query would hold out sentences of videos that were seen."""
    datasets = prepare(tiny_config(validation_share=0.3))
    assert not set(datasets.train.vids) & set(datasets.validation.vids)
    assert not set(datasets.train.vids) & set(datasets.data.queries["test"].vids)
    assert 0.2 <= len(set(datasets.validation.vids)) / 20 <= 0.4


def test_a_large_share_for_validation_leaves_a_video_to_train_on(tiny_config):
    """0.99 of 20 videos are 20: it was refused with a word about two videos."""
    data = prepare(tiny_config()).data
    kept, held = split_by_video(data.queries["train"], 0.99, 0)
    assert (len(set(kept.vids)), len(set(held.vids))) == (1, 19)


def test_the_published_protocol_selects_on_the_test_set_and_says_so(tiny_config, tmp_path):
    """The two protocols differ by points: a number without its protocol is worth nothing."""
    result = train(tiny_config(select_on="test", steps=1), tmp_path / "run")
    assert "published protocol" in result.card["protocol"]
    assert "selected on the test set" in (result.run / "card.md").read_text()
    scores = result.test.scores[0].metrics["R1@0.7"].value
    assert scores == pytest.approx(result.card["selection"]["fused/R1@0.7"])


@pytest.mark.parametrize("name", ["use_importance", "use_local", "use_event", "use_global"])
def test_ablations_train(tiny_config, name):
    """A switch that only the configuration knows would publish the wrong table."""
    config = tiny_config(**{name: False})
    module, batch = first_step(config)
    assert getattr(module.network.config, name) is False
    module.training_step(batch, 0).backward()
    other, _ = first_step(tiny_config())
    assert not torch.equal(other.training_step(batch, 0), module.training_step(batch, 0))


def test_devices_draw_their_own_random_numbers(tiny_config):
    """Two devices with the same dropout and slot noise would train on less than a run of one."""
    module, batch = first_step(tiny_config())
    losses = []
    for rank in (0, 1, 0):
        module._trainer = SimpleNamespace(global_rank=rank, global_step=0)
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_device_writes(tiny_config, tmp_path, first):
    """Two devices that write best.pt at once leave a file of both."""
    module, _ = first_step(tiny_config())
    datasets = prepare(tiny_config())
    run = RunFolder(tmp_path)
    callback = CheckpointCallback(run, tiny_config(), datasets.data, datasets.validation, {})
    module._trainer = SimpleNamespace(global_rank=int(not first), global_step=1, logger=None, is_global_zero=first)
    scores = callback._evaluate(module._trainer, module, 1)
    assert callback.history == [{"step": 1, **scores}]
    assert {path.name for path in tmp_path.iterdir()} == ({"best.pt", "last-0000001.pt"} if first else set())


def test_without_distillation_its_terms_have_no_weight(tiny_config):
    """The ablation table of the paper needs the very objective without the term."""
    assert loss_config(tiny_config(use_distillation=False)).distill_weight == 0
    assert loss_config(tiny_config(use_importance=False)).importance_weight == 0
    assert loss_config(tiny_config()).distill_weight == 10


def test_a_set_without_any_sound_is_refused(tiny_config, tmp_path, narrow_data):
    """There is nothing to train the audio stream on."""
    data = tmp_path / "data"
    shutil.copytree(narrow_data, data)
    for path in (data / "features" / "charades" / "audio").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no training video with sound"):
        prepare(tiny_config(data=str(data), cache=str(tmp_path / "cache")))


def test_evaluations_are_as_often_as_asked(tiny_config):
    """Twice per epoch and at the end: a run of 5 steps per epoch is evaluated after 2, 5, 7, 10, ... steps."""
    module = SimpleNamespace(epoch_steps=5, total_steps=13)
    found = [step for step in range(1, 14) if is_evaluated(step, module, tiny_config(evaluations=2))]
    assert found == [2, 5, 7, 10, 12, 13]


def test_states_hold_the_best_score(whole):
    """Without it a resumed run would replace the best checkpoint by its first one."""
    state = torch.load(whole / "resume.ckpt", weights_only=True)
    kept = state["callbacks"]["Keeper"]
    assert kept["best"] == max(row["fused/R1@0.7"] for row in kept["history"])
