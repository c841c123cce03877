"""The network as the kernels take it."""

import torch

from img_deploy.runtime.backends.triton.packed_network import PackedNetwork


def test_packing_leaves_the_network_as_it_was(checkpoints):
    """The reference that the backend is compared with would be rounded along with it."""
    network = checkpoints["tiny_glove"].network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    packed = PackedNetwork(network, "fp16", "cpu")
    assert {tensor.dtype for tensor in packed.network.parameters()} == {torch.float16}
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name
    slots = network.fusion.event.slot_attention.start(3)
    packed_slots = packed.network.fusion.event.slot_attention.start(3)
    assert packed_slots.is_contiguous()
    assert torch.equal(packed_slots, slots.half())
