"""How figures are written on the page."""

from dataclasses import dataclass
from typing import Any

NOT_YET = "not yet run on a GPU"


@dataclass(frozen=True)
class Words:
    """``kind`` is ``cuda`` or ``cpu``: on a CPU no figure stands anywhere."""

    kind: str

    @property
    def nothing(self) -> str:
        """What stands where there is no figure."""
        return NOT_YET if self.kind == "cpu" else "-"

    def number(self, value: float | None, scale: float = 1.0) -> str:
        """Three digits, or as many as a whole number has."""
        if value is None:
            return self.nothing
        value *= scale
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    def percent(self, value: float | None) -> str:
        return self.nothing if value is None else f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"

    def p50(self, figures: Any, scale: float = 1.0) -> str:
        """The median of a summary."""
        return self.number(None if figures is None else figures["p50"], scale)

    def times(self, above: Any, below: Any) -> str:
        """Ratio of the medians of two summaries."""
        if above is None or below is None:
            return self.nothing
        return self.number(above["p50"] / below["p50"])
