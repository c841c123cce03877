"""Where settings come from, and that wrong ones are all told at once."""

from pathlib import Path

import pytest
import yaml

from img_deploy.errors import ConfigError
from img_deploy.training.config import TrainConfig, read_config
from img_deploy.training.run_folder import RunFolder

NEEDED = {"task": "charades", "features": "i3d", "data": "/data"}


def test_options_go_before_the_file_and_the_file_before_the_defaults(tmp_path):
    """A user who types --seed 3 means 3, whatever the file says."""
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 1\nepochs: 7\ntask: charades\nfeatures: i3d\ndata: d\n")
    config = read_config(file, {"seed": 3})
    assert (config.seed, config.epochs, config.dim) == (3, 7, 128)


def test_the_defaults_are_the_published_settings():
    """A reproduction with other settings is none."""
    config = TrainConfig(**NEEDED)
    published = {"dim": 128, "heads": 8, "slots": 3, "slot_iterations": 3, "gru_layers": 3, "dropout": 0.2}
    published |= {"epochs": 100, "batch_size": 16, "learning_rate": 5e-4, "weight_decay": 0.01, "clip_norm": 1.0}
    published |= {"distill_warm_up": 20, "fusion_warm_up": 10, "keep_last": 3, "evaluations": 2}
    assert {name: getattr(config, name) for name in published} == published
    assert (config.label_temperature, config.label_threshold) == (3.0, 0.2)
    activitynet = TrainConfig(**{**NEEDED, "task": "activitynet"})
    assert (activitynet.label_temperature, activitynet.label_threshold) == (2.0, 0.1)
    assert config.select_on == "validation"


def test_all_problems_are_told_at_once(tmp_path):
    """One problem per attempt makes for many attempts."""
    file = tmp_path / "settings.yaml"
    file.write_text("task: charade\nheads: 7\nepochs: many\nsed: 1\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file, {"learning_rate": -1.0})
    message = str(caught.value)
    for part in (
        "settings.yaml",
        "sed: Extra",
        "features: Field required",
        "data: Field required",
        "integer (got 'many')",
    ):
        assert part in message
    file.write_text("task: charade\nheads: 7\nfeatures: i3d\ndata: d\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file, {"learning_rate": -1.0, "validation_share": 1.5})
    for part in ("task: Input", "not a multiple of heads 7", "greater than 0 (got -1.0)", "less than 1 (got 1.5)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"), [("- a\n- b\n", "got list"), ("a: [", "is not YAML"), ("\x00", "is not YAML")]
)
def test_a_file_that_is_no_settings_is_told(tmp_path, content, told):
    """A traceback of a parser is no answer."""
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_config(file, NEEDED)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml", NEEDED)


def test_saved_settings_come_back(tmp_path):
    """A run goes on with the settings it was begun with."""
    config = TrainConfig(**NEEDED, seed=5, use_event=False, steps=9, learning_rate=1e-3)
    config.save(tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml", {}) == config
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text())) == set(TrainConfig.model_fields)


def test_a_resumed_run_keeps_its_settings(tmp_path):
    """Another learning rate halfway is another run."""
    config = TrainConfig(**NEEDED, seed=5)
    folder = RunFolder(tmp_path / "run")
    folder.begin(config)
    assert folder.resume({"seed": 5}) == config
    with pytest.raises(ConfigError, match="seed is 5, got 6"):
        folder.resume({"seed": 6})
    with pytest.raises(ConfigError, match="leave out --resume"):
        RunFolder(tmp_path / "other").resume({})


def test_a_run_is_found_from_another_folder(tmp_path, monkeypatch):
    """--resume and --config run/config.yaml would look for the data below wherever they are typed."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(**NEEDED | {"data": "data"}, glove="../words.txt"))
    assert folder.resume({"data": "data"}).glove == str(tmp_path.parent / "words.txt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert read_config(folder.path / "config.yaml", {}).data == str(tmp_path / "data")
    assert folder.resume({"data": "../data"}).cache is None
    with pytest.raises(ConfigError, match="elsewhere/data"):
        folder.resume({"data": "data"})


def test_booleans_are_no_numbers():
    """`--set steps=true` would train one step."""
    with pytest.raises(ConfigError, match=r"steps: .*got True"):
        TrainConfig(**NEEDED, steps=True)
    with pytest.raises(ConfigError, match=r"use_local: .*got 0"):
        TrainConfig(**NEEDED, use_local=0)


def test_numbers_may_be_written_as_everywhere_else(tmp_path):
    """YAML 1.1 takes 5e-4 for a word: a learning rate written so would be refused."""
    file = tmp_path / "settings.yaml"
    file.write_text("task: charades\nfeatures: i3d\ndata: d\nlearning_rate: 5e-4\nweight_decay: 1E-2\nmargin: .5e0\n")
    config = read_config(file, {})
    assert (config.learning_rate, config.weight_decay, config.margin) == (5e-4, 1e-2, 0.5)


@pytest.mark.parametrize("value", ["2024-13-45", "0b_"])
def test_values_that_yaml_itself_stumbles_over_are_told(tmp_path, value):
    """A date of no calendar was a traceback."""
    file = tmp_path / "settings.yaml"
    file.write_text(f"seed: {value}\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_config(file, NEEDED)


def test_a_setting_of_the_file_can_be_taken_back(tmp_path):
    """`--set gamma=null` over a file that states it would be ignored without a word."""
    file = tmp_path / "settings.yaml"
    file.write_text("gamma: 2.5\n")
    assert read_config(file, {**NEEDED, "gamma": None}).gamma is None
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(**NEEDED, gamma=2.5))
    with pytest.raises(ConfigError, match=r"gamma is 2.5, got None"):
        folder.resume({"gamma": None})


def test_seeds_are_what_pytorch_takes():
    """A longer seed was a traceback after all data had been read."""
    assert TrainConfig(**NEEDED, seed=2**63 - 1, noise_seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ConfigError, match=r"seed: .*noise_seed: "):
        TrainConfig(**NEEDED, seed=2**63, noise_seed=2**63)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    """Two that go on with one run would write each other's states; and what killed ones left must go."""
    (tmp_path / "run").mkdir()
    for name in (".best.pt.12.tmp", ".last-0000003.pt.7.tmp", ".resume.ckpt.tmp", ".mine.tmp"):
        (tmp_path / "run" / name).touch()
    with RunFolder(tmp_path / "run") as first, RunFolder(tmp_path / "run") as second:
        first.hold()
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".mine.tmp"]
        with pytest.raises(ConfigError, match="another process is training"):
            second.hold()
    with RunFolder(tmp_path / "run") as third:
        third.hold()


def test_a_folder_that_tensorboard_cannot_name_is_refused_at_once():
    """Its writer knows UTF-8 alone: a traceback after the data was read."""
    with pytest.raises(ConfigError, match="UTF-8"):
        RunFolder(Path("run\udcff")).check_new()
