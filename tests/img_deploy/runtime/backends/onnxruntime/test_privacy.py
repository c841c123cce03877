"""What ONNX Runtime does beside its work."""

import os
import subprocess
import sys

ASKED = """
import sys
from img_deploy.runtime.predictor import load_bundle
load_bundle(sys.argv[1], "onnxruntime", threads=1).encode_query("w001")
"""


def test_nothing_is_gathered(exported, tmp_path):
    """It would keep an id of the machine and a store of events in the user's home, and send them over the network."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", ASKED, str(exported("tiny_glove"))]
    subprocess.run(command, env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
