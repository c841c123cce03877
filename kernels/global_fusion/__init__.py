"""Global audio-visual fusion: attention pool, projection and gate."""

from img_deploy.kernels.global_fusion import reference
from img_deploy.kernels.op import Op

global_fusion = Op(reference.global_fusion)
