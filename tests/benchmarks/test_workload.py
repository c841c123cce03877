"""What the backends are asked while they are timed."""

from pathlib import Path

import numpy as np
import pytest

from img_deploy.benchmarks.workload import SETS, Drawn, FromFolder
from img_deploy.errors import FeatureError
from img_deploy.runtime.inputs import input_rules
from img_deploy.text.tokens import tokenize


@pytest.fixture
def rules(bundle):
    return input_rules(bundle)


def test_drawn_queries_have_exactly_the_words_asked_for(rules):
    """The tokenizer takes "cannot" as two words: a case of 10 words would be timed with 11."""
    sets = Drawn(rules, words=7).sets(batch=6, clips=5)
    assert {len(tokenize(query)) for one in sets for query in one.queries} == {7}
    assert not any("cannot" in query for one in sets for query in one.queries)


def test_drawn_sets_differ_and_repeat_with_the_seed(rules):
    """One input over and over measures the cache; inputs that cannot be had again cannot be looked into."""
    sets = Drawn(rules, 4, seed=5).sets(2, 6)
    assert len(sets) == SETS
    assert not np.array_equal(sets[0].videos[0], sets[1].videos[0])
    assert not np.array_equal(sets[0].videos[0], sets[0].videos[1])
    again = Drawn(rules, 4, seed=5).sets(2, 6)
    assert all(np.array_equal(a, b) for a, b in zip(sets[2].audios, again[2].audios, strict=True))
    assert sets[1].queries == again[1].queries
    assert not np.array_equal(sets[0].videos[0], Drawn(rules, 4, seed=6).sets(2, 6)[0].videos[0])


def test_drawn_inputs_fit_the_bundle(rules, token_bundle):
    """The engine would refuse them, or down-sample them to another length than the case's."""
    one = Drawn(rules, 4).sets(3, 24)[0]
    assert [video.shape for video in one.videos] == [(24, 12)] * 3
    assert [audio.shape for audio in one.audios] == [(24, 8)] * 3
    tokens = Drawn(input_rules(token_bundle), 4).sets(3, 24)[0]
    assert [query.shape for query in tokens.queries] == [(4, 6)] * 3


def test_drawn_files_are_removed(rules):
    """Every profile would leave videos in the temporary folder."""
    with Drawn(rules, 4).folder(9) as (folder, names):
        place = Path(folder.path)
        assert folder.load(names[0]).video.shape == (9, 12)
        assert folder.load(names[0]).audio.shape == (9, 8)
    assert not place.exists()


def test_videos_of_a_folder_are_cut_to_length_and_have_sound(rules, feature_folder):
    """A length would be measured on shorter videos, or half of a case be answered by the other head."""
    workload = FromFolder(feature_folder, rules, words=3)
    one = workload.sets(batch=3, clips=8)[0]
    assert [video.shape for video in one.videos] == [(8, 12)] * 3
    assert [audio.shape for audio in one.audios] == [(8, 8)] * 3
    whole = np.load(feature_folder / "video/long.npy")
    assert np.array_equal(one.videos[0], whole[:8])
    assert workload.longest() == 20
    with workload.folder(12) as (_, names):
        assert names == ["long"]


def test_a_length_that_no_video_has_is_refused(rules, feature_folder):
    """The case would be measured on padding."""
    with pytest.raises(FeatureError, match=r"longest video has 20 clips, expected at least 21"):
        FromFolder(feature_folder, rules, 3).sets(1, 21)


def test_a_folder_without_sound_is_measured_on_the_visual_head_and_says_so(rules, feature_folder):
    """The figures of the smaller graph would pass for those of the whole network."""
    for path in (feature_folder / "audio").iterdir():
        path.unlink()
    (feature_folder / "audio").rmdir()
    workload = FromFolder(feature_folder, rules, 3)
    assert workload.sets(1, 24)[0].audios == [None]
    assert "visual head" in str(workload)
