"""The benchmark of the host's part: every part is measured, and the page adds up what it shows."""

import json

import pytest

from img_deploy.benchmarks import host
from img_deploy.benchmarks.timing import Slice


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
        one |= {"quiet": 10.0, "quiet_share": 0.25, "p50": 120.0}
    page = host.page(result)
    assert "at most 100; measured 10: met." in page
    assert "slowed the machine, 25% of the calls; 120 of all." in page
    assert page.count("| rest | -10 |") == 3
    assert "| encode video + encode query + ground | 30 | 25% | 360 |" in page
    times["answer"]["quiet"] = 110.0
    assert "measured 110: missed." in host.page(result)


def test_what_neighbours_slowed_is_told_apart():
    """The median of a run would be that of the machine's neighbours; or one without a quiet moment had none."""
    quiet, slow, between = Slice([1.0, 3.0], 10.0, 11.0), Slice([9.0, 9.0], 16.0, 16.0), Slice([9.0], 10.0, 16.0)
    summed = host.summed_up([slow, quiet, between], least=10.0)
    assert (summed["quiet"], summed["quiet_share"], summed["p50"], summed["low"]) == (2.0, 0.4, 9.0, 1.0)
    summed = host.summed_up([slow, between], least=10.0)
    assert (summed["quiet"], summed["quiet_share"]) == (9.0, 0.0)


def test_results_that_cannot_be_written_are_one_line(tmp_path, capsys, monkeypatch):
    """A measurement would end in a traceback."""
    (tmp_path / "file").write_text("")
    times = {*host.PARTS, *(part for parts in host.PARTS.values() for part in parts)}
    summary = {"quiet": 1.0, "quiet_share": 1.0, "p50": 1.0, "low": 1.0}
    monkeypatch.setattr(host, "measure", lambda _seconds: dict.fromkeys((*times, host.ROUNDING), summary))
    assert host.main(["--out", str(tmp_path / "file")]) == 2
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "number", "told"),
    [("--seconds", "0", "more than 0"), ("--seconds", "-1", "more than 0"), ("--threads", "0", "1 to 1024")],
)
def test_no_time_and_no_threads_are_refused(option, number, told, capsys):
    """A measurement of nothing would end in an empty table, or in a traceback of PyTorch."""
    assert host.main([option, number]) == 2
    assert f"expected {told}" in capsys.readouterr().err
