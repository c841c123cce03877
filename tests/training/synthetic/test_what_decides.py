"""What decides a query, measured: an observer that knows the prototypes must find what the sidecar claims."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import InputError
from img_deploy.training.synthetic.config import SyntheticConfig
from img_deploy.training.synthetic.grammar import UNKNOWN_WORD, build_actions, lexicon, words_of
from img_deploy.training.synthetic.noise import replace_audio_with_noise
from img_deploy.training.synthetic.queries import read_synthetic
from img_deploy.training.synthetic.scenes import plan
from img_deploy.training.synthetic.signals import Prototypes


@st.composite
def configs(draw):
    """Any configuration that can be generated, the narrow ones among them."""
    videos, min_moment, min_clips = draw(st.integers(8, 30)), draw(st.integers(1, 4)), draw(st.integers(15, 30))
    moments = draw(st.integers(3, min(6, (min_clips + 1) // (min_moment + 1))))
    silent = draw(st.integers(0, 8))
    return SyntheticConfig(
        videos=videos,
        seed=draw(st.integers(0, 1000)),
        moments=moments,
        min_clips=min_clips,
        max_clips=draw(st.integers(min_clips, 60)),
        min_moment=min_moment,
        max_moment=draw(st.integers(min_moment, 20)),
        noise_share=draw(st.floats(0, 0.5)),
        no_audio_share=draw(st.floats(0, 0.5)),
        pair_share=draw(st.floats(0, 1)),
        silent=silent,
        other=draw(st.integers(max(0, moments - silent), 8)),
    )


@settings(max_examples=40, deadline=None)
@given(configs())
def test_scenes_keep_their_promises(config):
    """Overlapping moments, an action twice in a video, or a query nothing can answer would cap every score."""
    scenes = plan(config, "charades")
    assert len({scene.vid for scene in scenes}) == config.videos
    for scene in scenes:
        assert config.min_clips <= scene.clips <= config.max_clips
        assert len(scene.events) == config.moments
        assert len({event.action for event in scene.events}) == config.moments
        assert scene.events[0].first >= 0
        assert scene.events[-1].last < scene.clips
        for event, following in pairwise(scene.events):
            assert event.last + 1 < following.first
        for event in scene.events:
            assert config.min_moment <= event.last - event.first + 1 <= config.max_moment
            assert 0 <= event.start < min(event.end, scene.duration)
            looks = [other.action.look for other in scene.events]
            assert event.sight is (looks.count(event.action.look) == 1)
            assert event.sight or (scene.audio == "real" and event.action.sound is not None)
    for split in ("train", "test"):
        part = [scene for scene in scenes if scene.split == split]
        assert any(scene.audio == "real" and not all(e.sight for e in scene.events) for scene in part)
        assert any(event.sight for scene in part for event in scene.events)


def test_shares_are_exact(record):
    """Shares left to chance would differ between seeds and blur what is compared across them."""
    audio = Counter({query.vid: query.audio for query in record.queries}.values())
    assert audio == {"real": 102, "noise": 12, "none": 6}
    categories = Counter(query.category for query in record.queries)
    assert min(categories.values()) > 120
    actions = Counter(query.action for query in record.queries)
    assert len(actions) == 24
    assert max(actions.values()) < 2.5 * min(actions.values())


def test_grammar():
    """A sentence with a word that tokenises otherwise, or two actions with one wording, would make a false query."""
    actions = build_actions(6, 10, 10)
    phrases = [f"{verb} {action.object}" for action in actions for verb in action.verbs]
    assert len(set(phrases)) == len(phrases)
    known = set(lexicon())
    for action in actions:
        assert all(word in known for verb in action.verbs for word in words_of(f"{verb} {action.object}."))
    assert UNKNOWN_WORD not in known
    pytest.importorskip("nltk")
    from img_deploy.text.tokens import tokenize

    for text in ("the person is tapping the bell beside the zorblax.", "a man coughs into a hand."):
        assert tokenize(text) == words_of(text)


class Observer:
    """Finds moments with full knowledge of the prototypes, by matching each clip with one of them."""

    def __init__(self, folder, config):
        self.features = folder / "features/charades"
        self.actions = {action.name: action for action in build_actions(4, 8, 8)}
        everything = list(self.actions.values())
        self.look = Prototypes(everything, "i3d", config["video_width"], config["seed"])
        self.sound = Prototypes(everything, "panns", config["audio_width"], config["seed"])

    def answer(self, query, use_sight, use_sound):
        """IoU of the best interval with the truth, in clips."""
        action = self.actions[query.action]
        video = np.load(self.features / f"i3d_video/{query.vid}.npy")
        score = np.zeros(len(video))
        if use_sight:
            score += self.match(video, self.look[action.look])
        path = self.features / f"audio/{query.vid}.npy"
        if use_sound and action.sound and path.exists():
            audio = np.load(path)
            nearest = ((np.arange(len(video)) + 0.5) * len(audio) / len(video)).astype(int)
            score += self.match(audio[nearest], self.sound[action.sound])
        # Best interval by summed evidence.
        sums = np.concatenate([[0], np.cumsum(score)])
        gain = np.where(np.triu(np.ones((len(video), len(video)))) > 0, sums[None, 1:] - sums[:-1, None], -np.inf)
        first, last = divmod(int(gain.argmax()), len(video))
        shared = min(last, query.span[1]) - max(first, query.span[0]) + 1
        joint = max(last, query.span[1]) - min(first, query.span[0]) + 1
        return max(shared, 0) / joint

    @staticmethod
    def match(features, prototype):
        """Evidence per clip: positive where the prototype is, negative where it is not."""
        return features @ prototype - 0.5 * 1.2 * (prototype @ prototype)


def recall(observer, queries, **senses):
    return np.mean([observer.answer(query, **senses) >= 0.5 for query in queries])


def test_sight_and_sound_decide_what_the_sidecar_says(narrow, record):
    """Were a look-alike pair told apart by sight, or a silent action heard, the claims of training would be void."""
    observer = Observer(narrow, record.config)
    queries = [query for query in record.queries if query.split == "test"]
    look_alike = [query for query in queries if query.needs_sound]
    silent = [query for query in queries if query.category == "silent"]
    seen = [query for query in queries if query.sight]
    assert min(map(len, (look_alike, silent, seen))) >= 12
    sight, sound, both = (
        {"use_sight": True, "use_sound": False},
        {"use_sight": False, "use_sound": True},
        {"use_sight": True, "use_sound": True},
    )
    assert recall(observer, look_alike, **sight) < 0.7
    assert recall(observer, look_alike, **sound) > 0.9
    assert recall(observer, look_alike, **both) > 0.9
    assert recall(observer, seen, **sight) > 0.95
    assert recall(observer, silent, **sound) < 0.2
    assert recall(observer, [query for query in queries if query.sound], **sound) > 0.9
    assert recall(observer, [query for query in queries if query.audio == "noise"], **sound) < 0.3


def test_noise_replaces_audio(narrow, record, tmp_path):
    """The noise experiment must change the audio of the stated share alone, and never the original."""
    heard = {query.vid for query in record.queries if query.audio != "none"}
    before = {path.name: path.read_bytes() for path in (narrow / "features/charades/audio").iterdir()}
    changed = {}
    for share in (0.25, 0.5, 1.0):
        out = tmp_path / str(share)
        assert replace_audio_with_noise(narrow, out, share, seed=2) == round(share * len(heard))
        after = {path.name: path.read_bytes() for path in (out / "features/charades/audio").iterdir()}
        assert after.keys() == before.keys()
        changed[share] = {name.removesuffix(".npy") for name in after if after[name] != before[name]}
        assert len(changed[share]) == round(share * len(heard))
        for old, new in zip(record.queries, read_synthetic(out).queries, strict=True):
            assert new.audio == ("noise" if new.vid in changed[share] else old.audio)
            assert new.sound is (old.sound and new.vid not in changed[share])
            assert (new.qids, new.query, new.span) == (old.qids, old.query, old.span)
    assert changed[0.25] < changed[0.5] < changed[1.0] == heard
    assert before == {path.name: path.read_bytes() for path in (narrow / "features/charades/audio").iterdir()}
    observer = Observer(tmp_path / "1.0", record.config)
    look_alike = [query for query in record.queries if query.needs_sound][:60]
    assert recall(observer, look_alike, use_sight=False, use_sound=True) < 0.3
    with pytest.raises(InputError, match="share"):
        replace_audio_with_noise(narrow, tmp_path / "wrong", 1.5)


def test_noise_replaces_vggish(all_kinds, tmp_path):
    """ActivityNet's audio is one pickle: videos left alone must keep their bytes, and the type must stay uint8."""
    from img_deploy.features.safe_pickle import load_arrays

    old = dict(load_arrays(all_kinds / "features/activitynet/audio/VGGish.pickle"))
    replace_audio_with_noise(all_kinds, tmp_path / "half", 0.5)
    new = dict(load_arrays(tmp_path / "half/features/activitynet/audio/VGGish.pickle"))
    assert list(new) == list(old)
    changed = {vid for vid in old if not np.array_equal(old[vid], new[vid])}
    record = read_synthetic(tmp_path / "half")
    noisy = {q.vid for q in record.queries if q.audio == "noise"}
    assert changed
    assert changed <= noisy
    assert {(array.dtype, array.shape) for array in new.values()} == {(a.dtype, a.shape) for a in old.values()}
