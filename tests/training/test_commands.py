"""`img-deploy synth`, `train` and `evaluate` as they are typed."""

import json

import pytest

from img_deploy.cli.main import main


@pytest.fixture
def run(capsys):
    """Function: runs a command line; gives exit code, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


SMALL = ("--set", "heads=2", "--set", "threads=1", "--set", "evaluations=1", "--accelerator", "cpu", "--steps", "3")


def test_from_nothing_to_scores(run, tmp_path):
    """The three commands, one after the other, as the documentation shows them."""
    data, out = tmp_path / "data", tmp_path / "run"
    code, told, _ = run("synth", data, "--videos", 10, "--seed", 1)
    assert (code, "10 videos" in told) == (0, True)
    task = ("--task", "charades", "--features", "i3d", "--data", data)
    code, told, notes = run("train", *task, "--out", out, "--dim", 8, *SMALL)
    assert code == 0
    assert "selected on 10% of the training videos" in told
    assert "fused" in told
    assert "step 3 of 3" in notes
    code, told, notes = run(
        "evaluate", "--ckpt", out / "best.pt", "--task", "charades", "--data", data, "--format", "json",
        "--predictions", tmp_path / "p.jsonl", "--plots", tmp_path / "plots",
    )  # fmt: skip
    assert code == 0
    scores = json.loads(told)
    assert scores["queries"] == len((tmp_path / "p.jsonl").read_text().splitlines())
    assert "held out" in scores["protocol"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} >= {"heads.png", "moment_length.png"}
    unwritable = ("--ckpt", out / "best.pt", "--format", "json", "--predictions", tmp_path)
    code, told, _ = run("evaluate", *unwritable, "--task", "charades", "--data", data)
    assert (code, json.loads(told)["queries"]) == (2, scores["queries"])  # they may have taken long
    code, _, errors = run("evaluate", "--ckpt", out / "best.pt", "--features", "iv2", *task[:2], *task[4:])
    assert (code, "trained on i3d; drop --features" in errors) == (2, True)
    code, told, _ = run("train", "--out", out, "--resume")
    assert code == 0
    assert f"{out / 'best.pt'}" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "--out", "{out}"), "task: Field required; features: Field required; data: Field required"),
        (("train", "--out", "{out}", "--task", "charade", "--features", "i3d", "--data", "{out}"), "(got 'charade')"),
        (("train", "--out", "{out}", "--resume"), "holds no training run to resume"),
        (("train", "--out", "{out}", "--set", "dim"), "expected NAME=VALUE"),
        (("train", "--out", "{out}", "--set", "dims=3"), "dims: Extra"),
        (("train", "--out", "{out}", "--set", "seed=2024-13-45"), "got '2024-13-45', expected a number"),
        (("train", "--out", "{out}", "--config", "{out}/none.yaml"), "cannot be read"),
        (("train", "--out", "{out}", "--task", "charades", "--features", "i3d", "--data", "{out}"), "with dataset/"),
        (("train", "--out", "{out}", "--select-on", "nothing"), "(got 'nothing')"),
        (("train", "--out", "{out}", "--threads", "1000000"), "threads: Input should be less than or equal to 1024"),
        (("evaluate", "--task", "charades", "--data", "{out}"), "either a checkpoint"),
        (("evaluate", "--task", "charades", "--data", "{out}", "--ckpt", "{out}/best.pt"), "best.pt"),
        (("evaluate", "--task", "charades", "--data", "{out}", "--bundle", "{out}"), "{out}"),
        (("evaluate", "--task", "x", "--data", "x", "--predictions", "a", "--ground-truth", "a"), "--ground-truth"),
        (("synth", "{out}/new", "--kind", "i3"), "(got 'i3')"),
        (("synth", "{out}/new", "--videos", "1"), "videos: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(run, tmp_path, arguments, told):
    """No traceback for a user's mistake, and nothing half made."""
    out = tmp_path / "out"
    out.mkdir()
    code, _, errors = run(*(argument.format(out=out) for argument in arguments))
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(lines) == 1
    assert told.format(out=out) in lines[0]
    assert "Traceback" not in errors
    assert not list(out.iterdir())


def test_a_resumed_run_refuses_another_config(run, tmp_path):
    """--config beside --resume was ignored without a word."""
    from img_deploy.training.config import TrainConfig
    from img_deploy.training.run_folder import RunFolder

    RunFolder(tmp_path / "run").begin(TrainConfig(task="charades", features="i3d", data="d", steps=2))
    (tmp_path / "other.yaml").write_text("steps: 9\n")
    code, _, errors = run("train", "--out", tmp_path / "run", "--resume", "--config", tmp_path / "other.yaml")
    assert code == 2
    assert "steps is 2, got 9" in errors


def test_the_line_that_synth_suggests_can_be_typed(run, tmp_path):
    """It named activitynet as features, left spaces bare and widths out: none of them trained."""
    sizes = ("--small", "--videos", 8)
    _, _, told = run("synth", tmp_path / "a b", *sizes, "--video-width", 6, "--audio-width", 5)
    assert f"--features i3d --data '{tmp_path}/a b' --set video_width=6 --set audio_width=5 --out RUN" in told
    _, _, told = run("synth", tmp_path / "c", *sizes, "--kind", "activitynet", "--kind", "iv2")
    assert "--task charades --features iv2" in told


def test_pictures_that_cannot_be_written_are_wrong_input(tmp_path):
    """As for --predictions: exit code 2, and what to do."""
    from types import SimpleNamespace

    from img_deploy.cli.evaluate_command import _write
    from img_deploy.errors import InputError

    (tmp_path / "file").touch()
    result = SimpleNamespace(task=SimpleNamespace(name="t", features="f"), evaluation=None)
    with pytest.raises(InputError, match="give another folder"):
        _write(result, None, None, tmp_path / "file", "test")
