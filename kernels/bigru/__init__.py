"""Bidirectional GRU layer over ragged sequences, several stacks at once."""

from torch import Tensor

from img_deploy.kernels.bigru import gradient, reference
from img_deploy.kernels.register import Op

SCHEMA = "(Tensor x, Tensor lengths, Tensor weight_ih, Tensor weight_hh, Tensor bias_ih, Tensor bias_hh) -> Tensor"


def _fake(x: Tensor, _lengths: Tensor, _weight_ih: Tensor, weight_hh: Tensor, *_: object) -> Tensor:
    stacks, batch, length, _width = x.shape
    return x.new_empty((stacks, batch, length, 2 * weight_hh.shape[-1]))


bigru = Op("bigru", SCHEMA, reference.bigru, _fake, trained=gradient.bigru)
