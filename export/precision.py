"""Precisions of the exported graphs: the network itself cast, so that every type is in the graph.

The ops keep float32 islands whatever the storage: softmax, LayerNorm statistics, recurrent states, logits.
"""

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.runtime.backends.padded import stacked
from img_deploy.runtime.backends.protocol import Feeds, Outputs, Values

if TYPE_CHECKING:
    import torch

    from img_deploy.model.network import IMGNetwork

IN_ORT = ("fp32", "fp16")
"""Precisions that ONNX Runtime's CPU kernels take; bf16 graphs are for GPUs."""


def network_in(network: "IMGNetwork", precision: str) -> "IMGNetwork":
    """The network with weights and activations in a precision; itself in fp32."""
    if precision == "fp32":
        return network
    return deepcopy(network).to(_dtype(precision)).eval()


class TypedTorchBackend:
    """The eager network in a precision: what a graph loses by its types alone, where no runtime runs them here."""

    name, device, has_pair = "torch", "cpu", False

    def __init__(self, network: "IMGNetwork", precision: str) -> None:
        self.precision = precision
        self._graphs = network_in(network, precision).graphs
        self._config = network.config

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        import torch

        from img_deploy.model.graphs import graph_specs

        spec = graph_specs(self._config)[graph]
        with torch.inference_mode():
            inputs = [self._tensor(feeds[tensor.name], tensor.dtype) for tensor in spec.inputs]
            outputs = self._graphs[graph](*inputs)
        return {tensor.name: value.float().numpy() for tensor, value in zip(spec.outputs, outputs, strict=True)}

    def _tensor(self, values: Values | list[Values], dtype: str) -> "torch.Tensor":
        import torch

        tensor = torch.from_numpy(np.require(stacked(values), requirements=["C", "W"]))
        return tensor.to(_dtype(self.precision)) if dtype == "float" else tensor

    def notes(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


def _dtype(precision: str) -> "torch.dtype":
    import torch

    found: torch.dtype = getattr(torch, ELEMENT_TYPES[precision].torch)
    return found
