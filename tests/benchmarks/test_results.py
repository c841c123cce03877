"""The published results: pages that are made of their figures and of nothing else."""

import json
from pathlib import Path

import pytest

from img_deploy.benchmarks import cpu, host, library, serve_page, training_step
from img_deploy.benchmarks.on_gpu.pages import page as gpu_page
from img_deploy.benchmarks.on_gpu.record import Results
from img_deploy.benchmarks.page import json_text

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("cpu", cpu.page),
        ("host", host.page),
        ("library", library.page),
        ("serve", serve_page.page),
        ("training_step", training_step.page),
    ],
)
def test_a_published_page_is_that_of_its_figures(name, page):
    """A figure would stand on a page that nobody measured, or be another one than in the file beside it."""
    text = (RESULTS / f"{name}.json").read_text()
    assert json_text(json.loads(text)) == text
    assert page(json.loads(text)) == (RESULTS / f"{name}.md").read_text()


def test_the_gpu_page_is_that_of_its_figures():
    """The same of both parts on a GPU."""
    parts = [Results(RESULTS / f"gpu_{part}.jsonl") for part in "ab"]
    assert gpu_page(parts) == (RESULTS / "gpu.md").read_text()
    assert all(part.head() for part in parts)
