"""``--rebuild`` on the command line: what is told meanwhile."""

import sys
from pathlib import Path


def rebuild_for_this_machine(bundle: Path, quiet: bool = False) -> None:
    """Build the engines that do not fit this machine. Raises BackendError, VerificationError, BundleError."""
    from img_deploy.export.engine_rebuild import rebuild_engines

    reports = rebuild_engines(bundle, _silent if quiet else _tell)
    _say(f"{bundle}: {len(reports)} engines built" if reports else f"{bundle}: its engines fit this machine", quiet)


def _tell(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, file=sys.stderr, flush=True)


def _silent(_step: str) -> None:
    pass
