"""Options of a command from the settings that they set: type, description and default are declared there alone."""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    from img_deploy.training.settings import Settings


def with_options(command: Callable[..., None], settings: "type[Settings]", names: Sequence[str]) -> Callable[..., None]:
    """A command with an option for each named setting, after its first parameter.

    Args:
        command: takes the options as keywords, None where an option is not given.
    """
    first, *own, _ = Signature.from_callable(command).parameters.values()
    hints = get_type_hints(settings)
    made = []
    for name in names:
        field, kind = settings.model_fields[name], get_args(hints[name] | None)[0]
        text = " ".join(str(field.description).split())
        if not field.is_required() and field.default is not None:
            text += f" Default: {field.default:.4g}." if kind is float else f" Default: {field.default}."
        choice = "|".join(get_args(kind)) if get_origin(kind) is Literal else None
        option = typer.Option(help=text, show_default=False, metavar=choice)
        wanted: Any = (str if choice else kind) | None
        made.append(Parameter(name, first.kind, default=None, annotation=Annotated[wanted, option]))

    @wraps(command)
    def with_all(**given: Any) -> None:
        command(**given)

    with_all.__signature__ = Signature([first, *made, *own])  # type: ignore[attr-defined]
    return with_all
