"""Answers of a network or of a bundle to annotated queries: the three heads, as an evaluation needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.errors import InputError
from img_deploy.runtime.batching import bucket_batches
from img_deploy.runtime.spans import decode_spans, span_to_window
from img_deploy.training.data import Batch, GroundingData, Queries
from img_deploy.training.metrics import window_iou

if TYPE_CHECKING:
    import torch

    from img_deploy.model.network import HeadOutput, IMGNetwork, NetworkOutput
    from img_deploy.runtime.predictor import Predictor

Floats: TypeAlias = npt.NDArray[np.float64]
HEADS = ("fused", "visual", "audio")


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered to n queries. Windows are [n, 2] seconds, NaN where a head has no answer."""

    queries: Queries
    windows: dict[str, Floats]
    """By head. The visual head answers for the fused one where a video has no sound, as at inference."""
    scores: Floats
    """[n] product of probabilities of the fused head's window."""
    importance: Floats
    """[n], NaN for videos without sound."""
    has_audio: npt.NDArray[np.bool_]

    def ious(self, head: str) -> Floats:
        """[n] IoU of a head's windows with the annotated ones; NaN where it has no answer."""
        windows = self.windows[head]
        answered = ~np.isnan(windows[:, 0])
        ious = np.full(len(windows), np.nan)
        ious[answered] = window_iou(windows[answered], self.queries.windows[answered])
        return ious


def answers_of_network(
    network: "IMGNetwork",
    data: GroundingData,
    queries: Queries,
    batch_size: int = 64,
    device: "str | torch.device" = "cpu",
) -> Answers:
    """All three heads of a network in evaluation mode. Its mode is left as it was.

    Raises:
        InputError: the network has no finite result for a video, which is named.
    """
    import torch

    table = _Table(queries, data.has_audio(queries), HEADS)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for rows in bucket_batches(data.clips(queries).tolist(), batch_size):
                batch = data.batch(queries, rows).to(device)
                output = network(batch.video, batch.audio, batch.clip_mask, batch.text)
                _check_finite(output, batch)
                for head in HEADS:
                    table.take_head(head, rows, *_decoded(getattr(output, head), batch))
                table.importance[rows] = output.importance.float().cpu().numpy()
    finally:
        network.train(training)
    return table.answers()


def answers_of_bundle(predictor: "Predictor", data: GroundingData, queries: Queries, batch_size: int = 16) -> Answers:
    """The fused and the visual head of a bundle; likewise. Each video is encoded once, its queries asked together."""
    table = _Table(queries, data.has_audio(queries), HEADS[:2])
    order = bucket_batches(data.store.clips[np.unique(queries.videos)].tolist(), batch_size)
    videos = np.unique(queries.videos)
    for some in order:
        rows = np.flatnonzero(np.isin(queries.videos, videos[some]))
        for head in HEADS[:2]:
            names = [data.store.vids[video] for video in videos[some]]
            sounds = [_sound(data, video) if head == "fused" else None for video in videos[some]]
            encoded = predictor.encode_video([np.array(data.store.video[v]) for v in videos[some]], sounds, vid=names)
            place = {int(video): k for k, video in enumerate(videos[some])}
            asked = predictor.encode_query([_question(data, queries, int(row)) for row in rows])
            pairs = [(place[int(queries.videos[row])], k) for k, row in enumerate(rows)]
            answers = predictor.ground(encoded, asked, pairs=pairs, batch_size=batch_size)
            spans = [answer.best.span for answer in answers]
            table.take_head(head, rows, spans, [answer.best.score for answer in answers], data.clips(queries)[rows])
            if head == "fused":
                table.importance[rows] = [np.nan if a.importance is None else a.importance for a in answers]
    return table.answers()


class _Table:
    """Collects answers row by row."""

    def __init__(self, queries: Queries, has_audio: npt.NDArray[np.bool_], heads: Sequence[str]) -> None:
        self._queries, self._has_audio = queries, has_audio
        self._windows = {head: np.full((len(queries), 2), np.nan) for head in heads}
        self._scores = {head: np.full(len(queries), np.nan) for head in heads}
        self.importance = np.full(len(queries), np.nan)

    def take_head(self, head: str, rows: Any, spans: Sequence[Any], scores: Sequence[float], clips: Any) -> None:
        seconds = self._queries.durations[rows]
        self._windows[head][rows] = [
            span_to_window(span, int(count), float(duration))
            for span, count, duration in zip(spans, clips, seconds, strict=True)
        ]
        self._scores[head][rows] = scores

    def answers(self) -> Answers:
        silent = ~self._has_audio
        self._windows["fused"][silent] = self._windows["visual"][silent]
        self._scores["fused"][silent] = self._scores["visual"][silent]
        self.importance[silent] = np.nan
        if "audio" in self._windows:
            self._windows["audio"][silent] = np.nan
        return Answers(self._queries, self._windows, self._scores["fused"], self.importance, self._has_audio)


def _check_finite(output: "NetworkOutput", batch: Batch) -> None:
    import torch

    heads = (output.fused, output.visual, output.audio)
    good = torch.stack([one.isfinite().all(1) for head in heads for one in (head.start, head.end)]).all(0)
    for vid, qid, fine in zip(batch.vids, batch.qids, good.tolist(), strict=True):
        if not fine:
            raise InputError(
                f"video {vid}: got features too large for the network (it has no finite result for query {qid}), "
                "expected the extractor's own scale; extract them again or remove the video"
            )


def _decoded(head: "HeadOutput", batch: Batch) -> tuple[list[tuple[int, int]], list[float], Any]:
    clips = batch.clip_mask.sum(1).cpu().numpy()
    spans = decode_spans(head.start.float().cpu().numpy(), head.end.float().cpu().numpy(), clips)
    return [own[0][:2] for own in spans], [own[0][2] for own in spans], clips


def _sound(data: GroundingData, video: int) -> npt.NDArray[np.float32] | None:
    audio = data.store.audio[video]
    return np.array(audio) if len(audio) else None


def _question(data: GroundingData, queries: Queries, row: int) -> Any:
    return data.token_features(queries, row) if data.variant == "tokens" else queries.samples[row].query
