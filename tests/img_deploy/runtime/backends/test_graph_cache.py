"""Captured graphs are kept by bucket, and make room for each other."""

import pytest

from img_deploy.runtime.backends.graph_cache import GraphCache


def test_captured_once_and_least_used_first_out():
    """Every request would capture anew, or a graph in use be thrown away for a new one."""
    captured = []
    cache = GraphCache(lambda key: captured.append(key) or key.upper(), most=2)
    assert [cache.get(key) for key in "abaca"] == list("ABACA")
    assert captured == ["a", "b", "c"]
    cache.get("b")
    assert captured == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_room_is_made_before_the_capture():
    """A capture would need its memory beside that of the graph that makes room for it."""
    held = []

    class Graph:
        def __del__(self):
            held.remove(id(self))

    def capture(_key):
        assert len(held) < 2
        graph = Graph()
        held.append(id(graph))
        return graph

    cache = GraphCache(capture, most=2)
    for key in range(5):
        cache.get(key)
    cache.clear()
    assert held == []


def test_a_failed_capture_leaves_nothing_behind():
    """A graph that could not be captured would be replayed."""
    answers = iter([RuntimeError("no memory"), "graph"])

    def capture(_key):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache = GraphCache(capture, most=1)
    with pytest.raises(RuntimeError, match="no memory"):
        cache.get(1)
    assert len(cache) == 0
    assert cache.get(1) == "graph"


def test_no_room_is_refused():
    """A cache of nothing would never end making room."""
    with pytest.raises(ValueError, match="room for 0 graphs"):
        GraphCache(str, most=0)
