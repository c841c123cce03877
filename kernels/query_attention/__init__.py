"""Context-query attention with query concatenation."""

from img_deploy.kernels.op import Op
from img_deploy.kernels.query_attention import reference

query_attention = Op(reference.query_attention)
