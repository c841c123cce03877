"""ONNX Runtime, in this process."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported: it would report to its makers
