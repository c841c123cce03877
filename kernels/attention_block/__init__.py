"""Pre-norm attention block: LayerNorm, QKV, masked softmax, output projection, both residuals."""

from img_deploy.kernels.attention_block import reference
from img_deploy.kernels.op import Op

attention_block = Op(reference.attention_block)
