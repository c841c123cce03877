"""Slot attention of both modalities, all iterations."""

from img_deploy.kernels.op import Op
from img_deploy.kernels.slot_attention import reference

slot_attention = Op(reference.slot_attention, fake=reference.fake)
