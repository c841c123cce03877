"""How a run of the paper's code names its tensors, and which of ours each becomes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from img_deploy.model.config import ModelConfig

Combine = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Recipe:
    """One of our tensors: the reference's ``sources`` and what makes one tensor of them."""

    target: str
    sources: tuple[str, ...]
    combine: Combine


def _same(parts: list[Tensor]) -> Tensor:
    return parts[0]


def _dense(parts: list[Tensor]) -> Tensor:
    """Kernel-1 convolution weights (out, in, 1), one below the other, as one matrix."""
    return torch.cat([part.reshape(part.shape[0], -1) for part in parts])


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _stack(inner: Combine = _same) -> Combine:
    return lambda parts: torch.stack([inner([part]) for part in parts])


def _squeeze(axis: int) -> Combine:
    return lambda parts: parts[0].squeeze(axis)


def recipes(config: ModelConfig) -> list[Recipe]:
    """Every tensor of ``IMGNetwork(config).state_dict()`` except the slot noise, which no run records."""
    found: list[Recipe] = []
    for target, sources, combine in _all(config):
        found.append(Recipe(target, sources if isinstance(sources, tuple) else (sources,), combine))
    return found


Rule = tuple[str, str | tuple[str, ...], Combine]


def _all(config: ModelConfig) -> Iterator[Rule]:
    for ours, letter, affine in (("visual", "v", "video_affine"), ("audio", "a", "audio_affine")):
        yield from _stream(config, ours, letter, affine)
    yield from _linear("saliency", "saliency_proj_av")
    yield from _predictor("predictor", "predictor_av")
    yield from _fusion(config)


def _linear(ours: str, theirs: str) -> Iterator[Rule]:
    yield f"{ours}.weight", f"{theirs}.weight", _dense
    yield f"{ours}.bias", f"{theirs}.bias", _same


def _norm(ours: str, theirs: str) -> Iterator[Rule]:
    yield f"{ours}.weight", f"{theirs}.weight", _same
    yield f"{ours}.bias", f"{theirs}.bias", _same


def _attention(ours: str, theirs: str, cross: bool = False) -> Iterator[Rule]:
    parts = ("query", "key", "value")
    yield f"{ours}.qkv_weight", tuple(f"{theirs}.{part}.conv1d.weight" for part in parts), _dense
    yield f"{ours}.qkv_bias", tuple(f"{theirs}.{part}.conv1d.bias" for part in parts), _flat
    norms = ("layer_norm_x", "layer_norm_context", "layer_norm_out") if cross else ("layer_norm_x", "layer_norm_out")
    for index, name in enumerate(norms, start=1):
        yield from _norm(f"{ours}.{name}", f"{theirs}.layer_norm{index}")
    yield from _linear(f"{ours}.out", f"{theirs}.out_layer.conv1d")


def _conv_block(ours: str, theirs: str, layers: int) -> Iterator[Rule]:
    each = range(layers)
    conv = f"{theirs}.depthwise_separable_conv"
    yield f"{ours}.layer_norm_weight", tuple(f"{theirs}.layer_norms.{i}.weight" for i in each), _stack()
    yield f"{ours}.layer_norm_bias", tuple(f"{theirs}.layer_norms.{i}.bias" for i in each), _stack()
    yield f"{ours}.depthwise_weight", tuple(f"{conv}.{i}.0.weight" for i in each), _stack(_squeeze(1))
    yield f"{ours}.pointwise_weight", tuple(f"{conv}.{i}.1.weight" for i in each), _stack(_dense)
    yield f"{ours}.pointwise_bias", tuple(f"{conv}.{i}.1.bias" for i in each), _stack()


def _predictor(ours: str, theirs: str) -> Iterator[Rule]:
    yield f"{ours}.position.weight", f"{theirs}.encoder.pos_embedding.position_embeddings.weight", _same
    yield from _conv_block(f"{ours}.conv_block", f"{theirs}.encoder.conv_block", 4)
    yield from _attention(f"{ours}.attention", f"{theirs}.encoder.attention_block")
    for side in ("start", "end"):
        yield from _norm(f"{ours}.layer_norm_{side}", f"{theirs}.{side}_layer_norm")
        for index in (0, 2):
            yield from _linear(f"{ours}.{side}.{index}", f"{theirs}.{side}_block.{index}.conv1d")


def _stream(config: ModelConfig, ours: str, m: str, affine: str) -> Iterator[Rule]:
    yield from _linear(f"{ours}.projection.linear", f"{affine}.linear.conv1d")
    if config.variant == "glove":
        yield from _words(f"{ours}.words", f"word_embedding{m}")
    else:
        yield from _linear(f"{ours}.words.linear", f"text_affine{m}.linear.conv1d")
    encoder = f"feature_encoder{m}"
    yield f"{ours}.encoder.position", f"{encoder}.pe.pe", lambda parts: parts[0][0, 0]
    yield from _conv_block(f"{ours}.encoder.conv_block", f"{encoder}.conv_block", 2)
    yield from _attention(f"{ours}.encoder.attention", f"{encoder}.attention_block")
    yield from _attention(f"{ours}.self_attention", f"transformer{m}")
    yield from _attention(f"{ours}.cross_attention", f"cross_transformer{m}", cross=True)
    query, concat = f"cq_attention{m}", f"cq_concat{m}"
    for name, source in (("clip", "w4C"), ("word", "w4Q"), ("product", "w4mlu")):
        yield f"{ours}.query_attention.{name}_weight", f"{query}.{source}", _flat
    yield f"{ours}.query_attention.attention_weight", f"{query}.cqa_linear.conv1d.weight", _dense
    yield f"{ours}.query_attention.attention_bias", f"{query}.cqa_linear.conv1d.bias", _same
    yield f"{ours}.query_attention.pool_weight", f"{concat}.weighted_pool.weight", _flat
    yield f"{ours}.query_attention.concat_weight", f"{concat}.conv1d.conv1d.weight", _dense
    yield f"{ours}.query_attention.concat_bias", f"{concat}.conv1d.conv1d.bias", _same
    yield from _linear(f"{ours}.saliency", f"saliency_proj_{m}")
    yield from _predictor(f"{ours}.predictor", f"predictor_{m}")


def _words(ours: str, theirs: str) -> Iterator[Rule]:
    yield f"{ours}.unknown", f"{theirs}.word_emb.unk_vec", _flat
    yield f"{ours}.char_table.weight", f"{theirs}.char_emb.char_emb.weight", _same
    for index in range(4):
        conv = f"{theirs}.char_emb.char_convs.{index}.0"
        yield f"{ours}.char_weights.{index}", f"{conv}.weight", _squeeze(2)
        yield f"{ours}.char_biases.{index}", f"{conv}.bias", _same
    yield from _linear(f"{ours}.linear", f"{theirs}.linear.conv1d")


def _both(pattern: str) -> tuple[str, ...]:
    """The visual and the audio tensor of ``pattern``, in our order."""
    return tuple(pattern.format(m=m) for m in "va")


def _gate(ours: str, theirs: str) -> Iterator[Rule]:
    norms = (f"{theirs}.fusion.layer_norm1", f"{theirs}.fusion.layer_norm2")
    for part in ("weight", "bias"):
        yield f"{ours}.gate.layer_norm_{part}", tuple(f"{norm}.{part}" for norm in norms), _stack()


def _fusion(config: ModelConfig) -> Iterator[Rule]:
    pools = ("PPmodule.weighted_poolv.weight", "PPmodule.weighted_poola.weight")
    yield "fusion.importance.pool_weight", pools, _stack(_flat)
    yield from _linear("fusion.importance", "PPmodule.pred_proj")
    yield from _local("fusion.local", "local_audio_fusion")
    yield from _event("fusion.event", "event_audio_fusion")
    whole = "global_audio_fusion"
    pools = (f"{whole}.global_video.weight", f"{whole}.global_audio.weight")
    yield "fusion.whole.pool_weight", pools, _stack(_flat)
    yield from _downsample("fusion.whole", whole)
    yield from _gate("fusion.whole", whole)
    yield from _multi_scale(config, "fusion.multi_scale", "down_sample")


def _downsample(ours: str, theirs: str) -> Iterator[Rule]:
    yield f"{ours}.proj_weight", _both(theirs + ".downsample{m}.conv.conv1d.weight"), _stack(_dense)
    yield f"{ours}.proj_bias", _both(theirs + ".downsample{m}.conv.conv1d.bias"), _stack()


def _local(ours: str, theirs: str) -> Iterator[Rule]:
    for index, width in enumerate((1, 3, 5)):
        block = theirs + ".conv_block{m}." + str(index)
        yield f"{ours}.conv{width}_weight", _both(f"{block}.weight"), _stack(_squeeze(1))
    biases = tuple(f"{theirs}.conv_block{m}.{index}.bias" for m in "va" for index in range(3))
    yield f"{ours}.conv_bias", biases, lambda parts: torch.stack(parts).reshape(2, 3, -1)
    yield from _downsample(ours, theirs)
    yield from _gate(ours, theirs)


def _event(ours: str, theirs: str) -> Iterator[Rule]:
    slots, base = f"{ours}.slot_attention", theirs + ".slot_attention{m}"
    yield f"{slots}.slots_mu", _both(f"{base}.slots_mu"), _stack(_flat)
    yield f"{slots}.slots_logsigma", _both(f"{base}.slots_logsigma"), _stack(_flat)
    for name, source in (
        ("norm_input", "norm_input"),
        ("norm_slots", "norm_slots"),
        ("norm_mlp", "norm_pre_ff"),
    ):
        for part in ("weight", "bias"):
            yield f"{slots}.{name}_{part}", _both(f"{base}.{source}.{part}"), _stack()
    for part in ("weight", "bias"):
        qkv = tuple(f"{theirs}.slot_attention{m}.to_{name}.conv1d.{part}" for m in "va" for name in ("q", "k", "v"))
        yield f"{slots}.qkv_{part}", qkv, _grouped(3, join=torch.cat)
        mlp = tuple(f"{theirs}.slot_attention{m}.mlp.{i}.conv1d.{part}" for m in "va" for i in (0, 2))
        yield f"{slots}.mlp_{part}", mlp, _grouped(2, join=torch.stack)
        for gate in ("ih", "hh"):
            yield f"{slots}.gru_{part}_{gate}", _both(f"{base}.gru.{part}_{gate}"), _stack()
    yield from _attention(f"{ours}.visual_attention", f"{theirs}.cross_transformer_v", cross=True)
    yield from _attention(f"{ours}.audio_attention", f"{theirs}.cross_transformer_a", cross=True)
    yield from _gate(ours, theirs)


def _grouped(size: int, join: Callable[[list[Tensor]], Tensor]) -> Combine:
    """Join each ``size`` consecutive tensors (kernel-1 convolutions as matrices), then stack the groups."""

    def combine(parts: list[Tensor]) -> Tensor:
        parts = [part.squeeze(-1) if part.dim() == 3 else part for part in parts]
        return torch.stack([join(parts[i : i + size]) for i in range(0, len(parts), size)])

    return combine


def _multi_scale(config: ModelConfig, ours: str, theirs: str) -> Iterator[Rule]:
    def gru(target: str, names: tuple[str, ...], layer: int) -> Iterator[Rule]:
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            sources = tuple(
                f"{theirs}.{name}.{part}_l{layer}{direction}" for name in names for direction in ("", "_reverse")
            )
            yield f"{target}.{part}", sources, _grouped(2, join=torch.stack)

    for layer in range(config.gru_layers):
        yield from gru(f"{ours}.stacks.{layer}", ("rnn1", "rnn2", "rnn3"), layer)
    yield from gru(f"{ours}.merge", ("rnn123",), 0)
    yield from _linear(f"{ours}.projection.linear", f"{theirs}.fusion.conv.conv1d")
