"""``img-deploy train``: from annotations and features to ``best.pt``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from img_deploy.cli.settings_options import with_options
from img_deploy.errors import ConfigError

SETTINGS = (
    *("task", "features", "data", "variant", "epochs", "steps", "batch_size", "learning_rate", "dim", "seed"),
    *("select_on", "precision", "accelerator", "devices", "nodes", "strategy", "workers", "threads", "glove", "cache"),
)
"""Settings with an option of their own; ``--set`` reaches all of them."""


def register(app: typer.Typer) -> None:
    from img_deploy.training.config import TrainConfig

    app.command("train")(with_options(train, TrainConfig, SETTINGS))


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: best.pt, config.yaml, logs, card.")],
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
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the result.")] = False,
    **options: Any,
) -> None:
    """Train a network and keep the best checkpoint, the last three, logs for TensorBoard and a card of the run.

    Settings come from the defaults (the published ones), then --config, then options. A run that was killed goes on
    with --resume, to the same weights as if it had not been.
    """
    from img_deploy.cli.evaluation_table import print_scores
    from img_deploy.cli.training_progress import TrainingBar
    from img_deploy.training.config import read_config, read_settings
    from img_deploy.training.run_folder import RunFolder

    options = {name: value for name, value in options.items() if value is not None} | _settings(setting or [])
    settings = RunFolder(out).resume(read_settings(config) | options) if resume else read_config(config, options)

    # Seconds of imports: not before the settings are right.
    from img_deploy.training.train import is_first_process
    from img_deploy.training.train import train as run

    with TrainingBar(quiet or not is_first_process()) as bar:
        result = run(settings, out, resume, bar, bar.log, bar.progress, bar.glove_progress)
    if is_first_process():
        print_scores(result.test, f"{result.best}: {result.card['protocol']}; scores on the test split")


def _settings(pairs: list[str]) -> dict[str, Any]:
    from img_deploy.training.config import parse_yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: got no '=', expected NAME=VALUE, e.g. --set use_importance=false")
        try:
            found[name.strip().replace("-", "_")] = parse_yaml(value)
        except ValueError:
            raise ConfigError(f"--set {pair}: got {value!r}, expected a number, a word, true or false") from None
    return found
