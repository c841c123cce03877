"""Text for a terminal."""


def one_line(text: str) -> str:
    """Text that keeps to its line and moves no cursor: line breaks and control characters become single spaces.

    >>> one_line("a.npy: got\\n  two lines")
    'a.npy: got two lines'
    """
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
