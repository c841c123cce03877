"""The report of the learning study: figures over seeds, tables, and the page they are put into."""

import json
import math
import re
from pathlib import Path

import pytest

from img_deploy.benchmarks.learning import tables
from img_deploy.benchmarks.learning.plan import SHARES, Places, Run, planned
from img_deploy.benchmarks.learning.report import fill, write_report
from img_deploy.benchmarks.learning.results import Figure, Results
from img_deploy.errors import InputError

PAGE = "# Page\n" + "".join(
    f"\n<!-- {name} -->\nold\n<!-- end -->\n" for name in ("claims", "heads", "noise", "ablations", "runs")
)


def _scores(value):
    return {"R1@0.3": value, "R1@0.5": value, "R1@0.7": value - 2, "mIoU": value}


def _result(run, fused=98.0, visual=80.0):
    def group(queries, importance, fused=fused, visual=visual):
        heads = {"fused": _scores(fused), "visual": _scores(visual), "audio": _scores(60.0)}
        return {"queries": queries, "importance": importance, **heads}

    test = {
        "all": {**group(100, 0.4), "chance": _scores(11.0)},
        tables.LOOK_ALIKE: group(30, 0.6, visual=50.0),
        tables.SILENT: group(30, 0.1, visual=fused),
        tables.SIGHT: group(58, 0.3, visual=fused - 1 if run.name == "full" else fused - 9),
        "no audio": {"queries": 2, "importance": math.nan, "fused": _scores(90.0), "visual": _scores(90.0)},
    }
    noised = {str(share): {"all": group(100, 0.4 - share / 10, fused - 10 * share)} for share in SHARES}
    row = {f"{head}/R1@0.5": 95.0 for head in ("fused", "visual", "audio")}
    history = [{"step": 100, "importance": 0.5, **dict.fromkeys(row, 10.0)}, {"step": 200, "importance": 0.4, **row}]
    return {
        "run": vars(run), "test": test, "noised_test": noised if not run.share else {}, "best_step": 200,
        "samples_per_second": 150.0, "history": history, "training_queries": 90, "steps": 2000,
    }  # fmt: skip


@pytest.fixture
def places(tmp_path):
    """A study of which three runs are done."""
    places = Places(tmp_path / "work")
    for run, fused in ((Run("full", 0), 98.0), (Run("full", 2), 96.0), (Run("no distillation", 2), 97.0)):
        file = places.result(run)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_result(run, fused)))
    return places


def test_figures_over_seeds():
    """A spread that is hidden or a mean of nothing would be reported as a finding."""
    assert Figure((98.0, 96.0)).text() == "97.0 (96.0 to 98.0)"
    assert Figure((98.0,)).text() == "98.0 (one seed)"
    assert Figure(()).text() == "not run"
    assert math.isnan(Figure(()).mean)


def test_an_unfinished_study_is_reported_as_that(places, tmp_path):
    """Figures of missing runs must be named as missing, not left out or taken from others."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "learning.md").write_text(PAGE)
    written = write_report(places, docs, commit="abc123")
    text = (docs / "learning.md").read_text()
    assert "old" not in text
    assert f"3 of {len(planned())} planned runs" in text
    assert "full (seeds 1)" in text
    assert "no importance (seeds 0, 1, 2)" in text
    assert "abc123" in text
    assert "| no local | not run | not run |" in text
    for path in written:
        assert path.stat().st_size > 0
        assert path.suffix != ".png" or path.read_bytes().startswith(b"\x89PNG")
    stored = json.loads((docs / "learning.json").read_text())
    assert stored["full-seed0-noise0"]["test"]["no audio"]["importance"] is None
    write_report(places, docs, commit="abc123")
    assert (docs / "learning.md").read_text() == text, "a second report differs"


def test_claims_are_judged_by_what_was_measured(places):
    """A verdict that does not follow from its figures."""
    rows = {line.split(" | ")[0].strip("| "): line for line in tables.claims(Results.read(places)) if line}
    assert "97.0 (96.0 to 98.0) | 98.0, 96.0 | met (2 of 3 seeds)" in rows["fused head, R@1 at IoU 0.5"]
    assert "47.0 (46.0 to 48.0)" in rows["look-alike actions: fused above visual head"]
    fall = next(line for name, line in rows.items() if name.startswith("importance: fall"))
    assert fall.endswith("not run |")
    gain = next(line for name, line in rows.items() if name.startswith("where sight can answer: visual head"))
    assert "7.0 (one seed) | 7.0 | met (1 of 3 seeds)" in gain  # seed 2 alone has both: 95 with, 88 without


def test_a_claim_that_fails_says_so(places):
    """The table is there to be believed."""
    for file in places.work.glob("results/*"):
        result = json.loads(file.read_text())
        result["test"]["all"]["fused"]["R1@0.5"] = 94.9
        file.write_text(json.dumps(result))
    first = tables.claims(Results.read(places))[2]
    assert first.endswith("| **not met** (2 of 3 seeds) |")


def test_what_was_not_run_is_not_judged(tmp_path):
    """No result is neither met nor failed."""
    lines = tables.claims(Results.read(Places(tmp_path)))
    assert all(line.endswith("not run |") for line in lines[2:-1])


def test_a_ceiling_gives_half_of_what_nothing_tells():
    """10 of 100 queries are told by neither sight nor sound: 5 of them are guessed."""
    run = Run("full", 0)
    assert Results({run: _result(run)}, [run]).ceiling().values == (95.0,)


def test_a_page_without_a_place_for_a_table_is_an_error(tmp_path):
    """A table that is silently left out would leave old figures standing."""
    with pytest.raises(InputError, match="'<!-- noise -->'"):
        fill("nothing\n", {"noise": ["x"]}, tmp_path / "learning.md")
    with pytest.raises(InputError, match="got no results"):
        write_report(Places(tmp_path / "empty"), tmp_path)


def test_the_published_page_is_supported_by_its_figures():
    """A table of docs/learning.md would say what no run found."""
    docs = Path(__file__).parents[2] / "docs"
    figures = json.loads((docs / "learning.json").read_text())
    results = Results({Run(**one["run"]): one for one in figures.values()}, planned())
    blocks = {"claims": tables.claims(results), "heads": tables.heads(results), "noise": tables.noise(results)}
    page = (docs / "learning.md").read_text()
    made = fill(page, blocks, docs / "learning.md")
    number = re.compile(r"-?\d+\.\d+")
    assert number.sub("#", made) == number.sub("#", page)
    # The file's figures are rounded to four digits; the page was made before that.
    assert [*map(float, number.findall(made))] == pytest.approx([*map(float, number.findall(page))], abs=0.0101)
