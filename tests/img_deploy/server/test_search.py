"""The stages of a search, with a predictor of the test's own."""

from types import SimpleNamespace

import numpy as np

from img_deploy.errors import FeatureError
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.server.search import Asked, stages

VIDEO = EncodedVideo("v", np.zeros((3, 2), np.float32), None, 3)


def stage_of(encoded):
    """The stage ``ground`` of a predictor that answers with the sentence; names of encoded queries go to the list."""

    def encode_prepared(queries, _):
        encoded.extend(query.sentence for query in queries)
        words = np.zeros((1, 2), np.float32)
        return [
            FeatureError("no result") if query.sentence == "bad" else EncodedQuery(query.sentence, None, words, words)
            for query in queries
        ]

    def ground_each(pairs, *_):
        return [f"{query.query} in {video.vid}" for video, query, _ in pairs]

    return stages(SimpleNamespace(encode_prepared=encode_prepared, ground_each=ground_each), 4)["ground"]


def test_a_query_without_a_result_fails_its_own_pairs_alone():
    """Requests of strangers would fail with it, or get each other's answers."""
    bad, good = Asked(Query("bad")), Asked(Query("good"))
    results = stage_of([]).run([(VIDEO, one, None) for one in (bad, good, bad, good)], (1, 0.5))
    assert [str(one) for one in results] == ["no result", "good in v", "no result", "good in v"]


def test_a_query_of_many_videos_is_encoded_once():
    """Each batch of a library's videos would encode it again."""
    encoded: list[str] = []
    stage, asked = stage_of(encoded), Asked(Query("a"))
    for _ in range(3):
        stage.run([(VIDEO, asked, None)] * 4, (1, 0.5))
    assert encoded == ["a"]
