"""The benchmark of the host's part: every part is measured, and the page adds up what it shows."""

import json

import pytest

from img_deploy.benchmarks import host


def test_a_small_measurement_from_command_to_page(tmp_path):
    """A part would be missing from the sum, or the verdict not follow from the figures."""
    assert host.main(["--out", str(tmp_path), "--seconds", "0.01"]) == 0
    result = json.loads((tmp_path / "host.json").read_text())
    times = result["microseconds"]
    assert {*host.PARTS, *(part for parts in host.PARTS.values() for part in parts)} <= times.keys()
    assert all(one["count"] >= 5 and one["low"] > 0 for one in times.values())
    assert times["encode video"]["low"] > times["checks of the features"]["low"]
    page = (tmp_path / "host.md").read_text()
    assert page == host.page(result)
    for one in times.values():
        one["p50"] = 10.0
    page = host.page(result)
    assert "at most 100; measured 10: met." in page
    assert page.count("| rest | -10 |") == 3
    assert "| encode video + encode query + ground | 30 |" in page
    times["answer"]["p50"] = 110.0
    assert "measured 110: missed." in host.page(result)


def test_results_that_cannot_be_written_are_one_line(tmp_path, capsys, monkeypatch):
    """A measurement would end in a traceback."""
    (tmp_path / "file").write_text("")
    times = {*host.PARTS, *(part for parts in host.PARTS.values() for part in parts)}
    summary = {"p50": 1.0, "low": 1.0}
    monkeypatch.setattr(host, "measure", lambda _seconds: dict.fromkeys((*times, host.ROUNDING), summary))
    assert host.main(["--out", str(tmp_path / "file")]) == 2
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "number", "told"),
    [("--seconds", "0", "more than 0"), ("--seconds", "-1", "more than 0"), ("--threads", "0", "at least 1")],
)
def test_no_time_and_no_threads_are_refused(option, number, told, capsys):
    """A measurement of nothing would end in an empty table, or in a traceback of PyTorch."""
    assert host.main([option, number]) == 2
    assert f"expected {told}" in capsys.readouterr().err
