"""How far a lowering of an op may be from the float64 reference, and why."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """``|got - expected| <= absolute + relative * |expected|``, element by element."""

    absolute: float
    relative: float
    reason: str
    """One line: what rounds, and how often."""
