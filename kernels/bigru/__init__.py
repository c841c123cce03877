"""Bidirectional GRU layer over ragged sequences, several stacks at once."""

from img_deploy.kernels.bigru import gradient, reference
from img_deploy.kernels.op import Op

bigru = Op(reference.bigru, fake=reference.fake, trained=gradient.bigru)
