"""The benchmark of a library: from commands to a page that says what was run and what was not."""

import json

import pytest

from img_deploy.benchmarks import library

pytest.importorskip("lance", reason="Lance is not installed")


def cell(size, seconds, engine="local", digest="a"):
    step = {"seconds": seconds, "megabytes": 200.0, "worker megabytes": None}
    where = {"machine": {"cpu": "c", "cpus": 2, "cpu_flags": [], "memory_gib": 1, "platform": "p", "gpus": []}}
    where |= {"versions": {}, "commit": "c", "time": "t"}
    steps = dict.fromkeys(library.STEPS, step)
    return {
        "engine": engine,
        "workers": 2,
        "size": size,
        "where": where,
        "busy": 0.1,
        "rows": size,
        "digest": digest,
        **steps,
    } | {"bytes per video": 7}


def test_a_small_measurement_from_command_to_page(tmp_path, exported, monkeypatch):
    """A step would fail, or a later run would drop what an earlier one measured."""
    monkeypatch.setattr(library, "CLIPS", 5)
    monkeypatch.setattr(library, "WIDTHS", {"video": 24, "audio": 20})
    (tmp_path / "library.json").write_text(json.dumps({"cells": [cell(4, 1.0)]}))
    given = ["--out", str(tmp_path), "--bundle", str(exported("tiny_glove")), "--engines", "local", "--sizes", "3"]
    assert library.main([*given, "--limit", "0"]) == 0
    result = json.loads((tmp_path / "library.json").read_text())
    assert [one["size"] for one in result["cells"]] == [3, 4]
    assert all(one["rows"] == one["size"] for one in result["cells"])
    assert result["cells"][0]["ask ten times"]["extrapolated"]
    assert (tmp_path / "library.md").read_text() == library.page(result)
    assert (tmp_path / "library.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_not_run_is_marked():
    """A reader would take a guess for a measurement, or rows that differ for the same."""
    cells = [cell(100, 1.0), cell(1000, 10.0), cell(100, 1.0, "ray"), cell(1000, 9.0, "ray", "b")]
    assert library.extrapolated(cells[:2], "index") == pytest.approx(1000.0)
    page = library.page({"command": "c", "cells": cells})
    assert "| ~ 100,000 | ~ 1,000 |" in page
    assert "100 videos: the same, 1,000 videos: NOT the same" in page
