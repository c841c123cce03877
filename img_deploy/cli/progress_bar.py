"""The progress bar of every command: what, bar, count, rate, time left, a free note."""

from typing import Any


def progress_bar() -> Any:
    """A rich bar on standard error. Its tasks have the fields ``unit`` and ``note``, and ``before``: done earlier.

    The rate is that of the whole run: work that comes in lots would make the first figures of a moving one absurd.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = _rate(task)
            return Text(f"{speed:,.1f} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")

    class Left(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = _rate(task)
            left = _clock((task.total - task.completed) / speed) if speed and task.total is not None else "-:--:--"
            return Text(left, style="progress.remaining")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        Left(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )


def _rate(task: Any) -> float:
    """Of this run, per second; 0 where it cannot be told yet."""
    elapsed = task.elapsed or 0.0
    done = task.completed - task.fields.get("before", 0)
    return done / elapsed if elapsed > 0.5 and done > 0 else 0.0


def _clock(seconds: float) -> str:
    """
    >>> _clock(3725.4)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
