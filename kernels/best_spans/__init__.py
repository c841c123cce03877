"""Span decoding under start <= end."""

from img_deploy.kernels.best_spans import reference
from img_deploy.kernels.op import Op

best_spans = Op(reference.best_spans, fake=reference.fake)
