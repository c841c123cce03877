"""``img-deploy train``: from annotations and features to ``best.pt``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from img_deploy.errors import ConfigError


class SelectOn(StrEnum):
    VALIDATION = "validation"
    TEST = "test"
    VAL_2 = "val_2"


class Precision(StrEnum):
    FP32 = "32-true"
    BF16 = "bf16-mixed"
    FP16 = "16-mixed"


def register(app: typer.Typer) -> None:
    app.command("train")(train)


def _option(default: str, text: str) -> Any:
    return typer.Option(help=f"{text} Default: {default}.", show_default=False)


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: best.pt, config.yaml, logs, card.")],
    task: Annotated[
        str | None, typer.Option(help="charades, charadesAM (Charades-AudioMatter) or activitynet.", show_default=False)
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="i3d, clip+sf or iv2 (InternVideo2).", show_default=False)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with dataset/ and features/.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; options given here go before it.", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting of config.yaml, e.g. use_importance=false."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in --out, with its own settings.")
    ] = False,
    variant: Annotated[
        str | None, _option("tokens where token features lie beside clip+sf or iv2, else glove", "glove or tokens.")
    ] = None,
    epochs: Annotated[int | None, _option("100", "Passes over the training queries.")] = None,
    steps: Annotated[int | None, _option("as many as the epochs take", "Length of the run in steps.")] = None,
    batch_size: Annotated[int | None, _option("16", "Queries per step, over all devices.")] = None,
    learning_rate: Annotated[float | None, _option("5e-4", "At the start; falls linearly to 0.")] = None,
    dim: Annotated[int | None, _option("128", "Hidden size D.")] = None,
    seed: Annotated[int | None, _option("0", "Seed of everything that is drawn.")] = None,
    select_on: Annotated[
        SelectOn | None, _option("validation", "What best.pt is chosen by; test is the published protocol.")
    ] = None,
    precision: Annotated[Precision | None, _option("32-true", "Arithmetic.")] = None,
    accelerator: Annotated[str | None, _option("auto", "cpu, gpu or auto.")] = None,
    devices: Annotated[int | None, _option("1", "Devices per node.")] = None,
    nodes: Annotated[int | None, _option("1", "Machines.")] = None,
    strategy: Annotated[str | None, _option("auto", "Lightning's, for several devices, e.g. ddp.")] = None,
    workers: Annotated[int | None, _option("0", "Processes that load batches.")] = None,
    threads: Annotated[int | None, _option("PyTorch's", "CPU threads.")] = None,
    glove: Annotated[Path | None, _option("glove.840B.300d.txt in features/", "GloVe text file.")] = None,
    cache: Annotated[Path | None, _option(".img-deploy in DATA", "Folder that keeps down-sampled features.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the result.")] = False,
) -> None:
    """Train a network and keep the best checkpoint, the last three, logs for TensorBoard and a card of the run.

    Settings come from the defaults (the published ones), then --config, then options. A run that was killed goes on
    with --resume, to the same weights as if it had not been.
    """
    given = {name: value for name, value in locals().items() if name not in ("out", "config", "setting", "resume")}
    given.pop("quiet")
    options = {name: _plain(value) for name, value in given.items() if value is not None} | _settings(setting or [])

    from img_deploy.cli.evaluation_table import print_scores
    from img_deploy.cli.training_progress import TrainingBar
    from img_deploy.training.config import read_config
    from img_deploy.training.run_folder import RunFolder

    settings = RunFolder(out).resume(options) if resume else read_config(config, options)

    # Seconds of imports: not before the settings are right.
    from img_deploy.training.train import is_first_process
    from img_deploy.training.train import train as run

    with TrainingBar(quiet or not is_first_process()) as bar:
        result = run(settings, out, resume, bar, bar.log, bar.progress, bar.glove_progress)
    if is_first_process():
        print_scores(result.test, f"{result.best}: {result.card['protocol']}; scores on the test split")


def _plain(value: Any) -> Any:
    """YAML knows plain types alone."""
    return str(value) if isinstance(value, Path | StrEnum) else value


def _settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: got no '=', expected NAME=VALUE, e.g. --set use_importance=false")
        try:
            found[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {pair}: got {value!r}, expected a number, a word, true or false") from None
    return found
