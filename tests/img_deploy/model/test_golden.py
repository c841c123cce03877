"""The network against values recorded from the paper's code: every output and every intermediate activation."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from img_deploy.kernels.best_spans import best_spans
from img_deploy.kernels.query_attention.reference import attended_parts
from img_deploy.model.stream import TextInput

TOLERANCE = 3e-5
CASES = sorted(Path(__file__).parents[2].glob("golden/tiny_*/case_*.safetensors"))
HEADS = (("fused", "av"), ("visual", "v"), ("audio", "a"))


def run(checkpoint, case):
    """Outputs and activations of one recorded sample, keyed as the recording keys them."""
    network = checkpoint.network()
    network.fusion.event.slot_attention.noise.copy_(torch.cat([case["in.noise_video"], case["in.noise_audio"]]))
    mask = torch.ones(case["in.video"].shape[:2], dtype=torch.bool)
    seen: dict[str, torch.Tensor] = {}
    hooks = [module.register_forward_hook(keep(seen, name)) for name, module in named(network, case).items()]
    asked = [stream.query_attention.register_forward_hook(attend(seen, m)) for stream, m in streams(network)]
    with torch.no_grad():
        out = network(case["in.video"], case["in.audio"], mask, text_of(checkpoint, case))
    for hook in hooks + asked:
        hook.remove()
    for head, letters in HEADS:
        for part in ("start", "end", "saliency"):
            seen[f"out.{part}_{letters}"] = getattr(getattr(out, head), part)
        seen[f"act.predictor_{letters}"] = seen[f"out.start_{letters}"]
    seen["out.importance"] = out.importance[:, None]
    seen["act.PPmodule"] = out.importance[:, None, None]
    spans, _ = best_spans(out.fused.start, out.fused.end, mask, 1)
    seen["out.span"] = spans[:, 0]
    return seen


def streams(network):
    return ((network.visual, "v"), (network.audio, "a"))


def named(network, case):
    """Recorded activation -> our module."""
    fusion = network.fusion
    found = {
        "act.local_audio_fusion": fusion.local,
        "act.event_audio_fusion": fusion.event,
        "act.global_audio_fusion": fusion.whole,
        "act.down_sample": fusion.multi_scale,
        "act.saliency_proj_av": network.saliency,
    }
    for stream, m in streams(network):
        found["act.video_affine" if m == "v" else "act.audio_affine"] = stream.projection
        words = f"act.text_affine{m}" if f"act.text_affine{m}" in case else f"act.word_embedding{m}"
        found[words] = stream.words
        found[f"act.feature_encoder{m}"] = stream.encoder
        found[f"act.transformer{m}"] = stream.self_attention
        found[f"act.cross_transformer{m}"] = stream.cross_attention
        found[f"act.cq_concat{m}"] = stream.query_attention
        found[f"act.saliency_proj_{m}"] = stream.saliency
    return found


def keep(seen, name):
    """The encoder runs on the clips first, then on the words: the recording calls the second ``.1``."""

    def hook(_module, _inputs, output):
        seen[f"{name}.1" if name in seen else name] = output

    return hook


def attend(seen, m):
    def hook(module, inputs, _output):
        parts = attended_parts(*inputs, module.clip_weight, module.word_weight, module.product_weight)
        seen[f"act.cq_attention{m}"] = F.linear(parts, module.attention_weight, module.attention_bias)

    return hook


def text_of(checkpoint, case):
    if "in.text" in case:
        return TextInput(case["in.text"], torch.ones(case["in.text"].shape[:2], dtype=torch.bool))
    ids = case["in.word_ids"]
    vectors = torch.tensor(checkpoint.vocabulary.vectors)
    table = torch.cat([torch.zeros(2, vectors.shape[1]), vectors])
    chars = case["in.char_ids"]
    chars = F.pad(chars, (0, max(0, 4 - chars.shape[2])))
    return TextInput(table[ids], torch.ones_like(ids, dtype=torch.bool), ids == 1, chars)


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_activation_matches_the_paper_s_code(path, checkpoints):
    """A wrong formula, eps, weight order or import rule anywhere in the network would move an activation."""
    case = load_file(path)
    seen = run(checkpoints[path.parent.name], case)
    recorded = {name for name in case if not name.startswith("in.")}
    assert recorded <= seen.keys(), recorded - seen.keys()
    for name in sorted(recorded):
        if name == "out.span":
            assert seen[name].tolist() == case[name].tolist()
        else:
            worst = (seen[name] - case[name]).abs().max().item()
            assert worst <= TOLERANCE, f"{name} differs by {worst:.1e}"


def test_there_are_cases():
    """An empty fixture folder would make the test above vanish."""
    assert len(CASES) == 9
