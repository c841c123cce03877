"""Where and with what a measurement was made."""

import json

from img_deploy.benchmarks import environment


def test_everything_that_a_figure_depends_on_is_plain_values():
    """A result without its machine and versions cannot be compared with anything."""
    where = json.loads(json.dumps(environment.environment(threads=3)))
    assert {"time", "commit", "machine", "versions", "threads"} <= where.keys()
    assert where["threads"] == 3
    assert where["machine"]["cpus"] >= 1
    assert {"python", "torch", "numpy"} <= where["versions"].keys()
    line = environment.headline(where)
    assert where["machine"]["cpu"] in line
    assert f"torch {where['versions']['torch']}" in line
    assert "threads 3" in line


def test_no_commit_outside_a_checkout(monkeypatch, tmp_path):
    """An installed package would be said to be the commit of whatever folder it is used in."""
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "site-packages" / "environment.py"))
    assert environment.commit() is None
