"""One step of the benchmark in a process of its own: ``python -m img_deploy.benchmarks.on_gpu.worker``.

Reads a :class:`Request` as one line of JSON from standard input and writes one JSON line per case to standard output
as soon as it is done. A kernel that breaks the CUDA context, or a compilation that does not end, costs its own case and
no other. Where standard input ends, the parent has, and so does the child.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

Case = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What a child is asked to do."""

    step: str
    kind: str
    """``cuda`` or ``cpu``."""
    cases: Sequence[Case]
    seconds: float
    """After these no further case is begun."""


def run_request(request: Request, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
    """Write ``{"begin": i}`` and then ``{"done": i, "record": ...}`` or ``{"failed": i, "why": ...}`` for each case."""
    begin = clock()
    run: Callable[[Case], Any] | None = None

    def tell(**line: Any) -> None:
        print(json.dumps(_finite(line)), file=out, flush=True)

    for index, case in enumerate(request.cases):
        if clock() - begin > request.seconds:
            break
        tell(begin=index)
        try:
            run = run or _prepared(request)
            tell(done=index, record=run(case))
        except Exception as error:  # compilers and drivers have errors of their own
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            tell(failed=index, why=text)
            if request.kind == "cuda":  # what it left behind may break what follows: another process goes on
                raise


def _finite(value: Any) -> Any:
    """Infinity and NaN, which JSON has not, as None."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _prepared(request: Request) -> Callable[[Case], Any]:
    """What runs one case of the step; sets up PyTorch for all of them."""
    import torch

    from img_deploy.benchmarks.on_gpu.device import device_of
    from img_deploy.benchmarks.on_gpu.steps import STEPS
    from img_deploy.kernels.interpreted import mend_interpreter

    torch.manual_seed(2508)
    # TF32 is no float32: as when the kernels serve answers.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if request.kind == "cpu":
        torch.set_num_threads(1)
        mend_interpreter()
    device, step = device_of(request.kind), STEPS[request.step]
    return lambda case: step(case, device)


def main() -> None:
    # Whatever else is printed (compilers tell what they choose) must not stand between the lines.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = Request(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_request(request, lines)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
