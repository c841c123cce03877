"""The fused blocks of IMG, one folder each; this package knows nothing of the rest.

Every op has one name in all its lowerings (``docs/kernels.md``). A call goes to the plain PyTorch reference,
which is differentiable and the truth, unless :func:`img_deploy.kernels.dispatch.use_ops` says otherwise.
"""
