"""The deployable graphs: tensor names, dtypes and dynamic axes, declared once for export and runtime.

Needs neither torch nor ONNX. ``B`` batch, ``L`` clips, ``N`` words, ``W`` characters of the longest word,
``D`` hidden size. Masks are True at real positions. ``float`` stands for the precision of the graph.
"""

from dataclasses import dataclass

from img_deploy.model.config import ModelConfig


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ``axes`` holds a name for a dynamic axis, an int for a fixed one."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]

    @property
    def dynamic_axes(self) -> dict[int, str]:
        return {index: axis for index, axis in enumerate(self.axes) if isinstance(axis, str)}


@dataclass(frozen=True)
class GraphSpec:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


GRAPH_NAMES = ("video_encoder", "query_encoder", "grounder", "visual_grounder")

PAIR = "pair"
"""A video with sound and its query, encoded and grounded in one graph. Backends that run the modules have it; it is not
exported."""

CLIP_MASK = TensorSpec("clip_mask", "bool", ("batch", "clips"))
WORD_MASK = TensorSpec("word_mask", "bool", ("batch", "words"))


def graph_specs(config: ModelConfig) -> dict[str, GraphSpec]:
    """The four graphs of a network, by name (see ``docs/architecture.md`` for what flows between them)."""
    dim = config.dim

    def clips(name: str, width: int = dim) -> TensorSpec:
        return TensorSpec(name, "float", ("batch", "clips", width))

    def words(name: str, width: int = dim) -> TensorSpec:
        return TensorSpec(name, "float", ("batch", "words", width))

    def per_clip(name: str) -> TensorSpec:
        return TensorSpec(name, "float32", ("batch", "clips"))

    text: tuple[TensorSpec, ...] = (words("text", config.text_dim),)
    if config.variant == "glove":
        text = (
            words("word_vectors", config.text_dim),
            TensorSpec("word_unknown", "bool", ("batch", "words")),
            TensorSpec("char_ids", "int64", ("batch", "words", "chars")),
        )
    logits = (per_clip("start_logits"), per_clip("end_logits"))
    specs = (
        GraphSpec(
            "video_encoder",
            (clips("video", config.video_dim), clips("audio", config.audio_dim), CLIP_MASK),
            (clips("visual_clips"), clips("audio_clips")),
        ),
        GraphSpec("query_encoder", (*text, WORD_MASK), (words("visual_words"), words("audio_words"))),
        GraphSpec(
            "grounder",
            (
                clips("visual_clips"),
                clips("audio_clips"),
                words("visual_words"),
                words("audio_words"),
                CLIP_MASK,
                WORD_MASK,
            ),
            (
                *logits,
                TensorSpec("importance", "float32", ("batch",)),
                per_clip("saliency"),
                per_clip("saliency_visual"),
                per_clip("saliency_audio"),
            ),
        ),
        GraphSpec(
            "visual_grounder",
            (clips("visual_clips"), words("visual_words"), CLIP_MASK, WORD_MASK),
            (*logits, per_clip("saliency")),
        ),
    )
    return {spec.name: spec for spec in specs}


def pair_spec(config: ModelConfig) -> GraphSpec:
    """The graph ``PAIR``: the inputs of both encoders, the outputs of the grounder."""
    video, query, grounder = (graph_specs(config)[name] for name in GRAPH_NAMES[:3])
    return GraphSpec(PAIR, (*video.inputs, *query.inputs), grounder.outputs)
