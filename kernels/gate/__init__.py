"""Importance-weighted sum of both modalities under their own LayerNorms."""

from img_deploy.kernels.gate import reference
from img_deploy.kernels.op import Op

gate = Op(reference.gate)
