"""Looks names up in TensorRT's bindings: a JSON list of dotted names comes in, what each is goes out.

For a method that is the first line of its documentation, which holds its signature (one for each overload).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from with_tensorrt import plugin, trt


def described(name: str) -> dict[str, Any]:
    root, *rest = name.split(".")
    value: Any = {"trt": trt, "trtp": plugin}[root]
    for part in rest:
        if not hasattr(value, part):
            return {"found": False}
        value = getattr(value, part)
    signatures = []
    own = rest[-1] if rest else ""
    for line in (getattr(value, "__doc__", None) or "").splitlines():
        if found := re.match(rf"(?:\d+\. )?{re.escape(own)}\(.*", line.strip()):
            signatures.append(found[0])
    return {"found": True, "signatures": signatures, "callable": callable(value)}


if __name__ == "__main__":
    names = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({name: described(name) for name in names}))
