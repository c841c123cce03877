"""Why the backend cannot run on a machine, or a bundle on it."""

import torch

from img_deploy import hardware
from img_deploy.runtime.backends.triton import backend as triton_backend
from img_deploy.runtime.bundle import Bundle


def test_why_it_cannot_run_here(bundles, monkeypatch):
    """`doctor` would say nothing, or the wrong thing, about a missing GPU or package."""
    bundle = Bundle.open(bundles["tiny_vlm"])
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 0)
    assert triton_backend.unavailable("cuda", bundle) == "no NVIDIA GPU"
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    monkeypatch.setattr(triton_backend, "find_spec", lambda name: None if name == "triton" else name)
    assert triton_backend.unavailable("cuda", None) == "triton is not installed (pip install 'img-deploy[gpu]')"
    monkeypatch.setattr(triton_backend, "find_spec", lambda name: name)
    bundle.manifest.precision = "int8"
    assert triton_backend.unavailable("cuda", bundle) == "the kernels compute in fp32, fp16, bf16, not in int8"
    bundle.manifest.precision = "fp16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_backend.unavailable("cuda", bundle) == f"torch {torch.__version__} cannot use the GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert triton_backend.unavailable("cuda", bundle) == "the GPU has compute capability 7.5, the kernels need 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert triton_backend.unavailable("cuda", bundle) is None
    bundle.manifest.files.clear()
    assert triton_backend.unavailable("cuda", bundle) == "the bundle has no weights.safetensors"
