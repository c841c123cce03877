"""What a run gives beside the outputs of its graph: spans, decoded where the logits are, and the range of features."""

from dataclasses import replace

from img_deploy.model.graphs import PAIR, GraphSpec, TensorSpec
from img_deploy.runtime.backends.protocol import BEST_SCORE, BEST_SPAN, FEATURE_RANGE

DECODED = TensorSpec(BEST_SPAN, "int64", ("batch", 2)), TensorSpec(BEST_SCORE, "float64", ("batch", 1))
RANGE = TensorSpec(FEATURE_RANGE, "float32", ("batch", 4))


def run_spec(spec: GraphSpec) -> GraphSpec:
    """A graph of the network, or ``PAIR``, with everything that its run gives."""
    more = (*((RANGE,) if spec.name == PAIR else ()), *(DECODED if gives_logits(spec) else ()))
    return replace(spec, outputs=(*spec.outputs, *more))


def gives_logits(spec: GraphSpec) -> bool:
    """Whether the first two outputs are the logits of starts and ends."""
    return spec.outputs[0].name == "start_logits"
