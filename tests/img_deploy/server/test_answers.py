"""What a server answers is what ``infer`` answers, whoever else asks at the time."""

import asyncio
import json
import random

import pytest

SENTENCES = (
    "a person opens the door.",
    "person closes the window and laughs",
    "someone is running",
    "the zzyzx sings to a dog in the kitchen while the radio plays music very loudly",
    "a man",
)


def asked(features, bundles, tmp_path, run_cli, *options):
    """Rows of ``infer`` by (vid, query)."""
    out = tmp_path / "rows.jsonl"
    asks = [part for sentence in SENTENCES for part in ("--query", sentence)]
    common = ("--bundle", bundles["tiny_glove"], "--backend", "torch", "--top-k", 3, *options)
    done = run_cli("infer", features.folder, *common, *asks, "--out", out)
    assert done.code == 0, done.err
    rows = map(json.loads, out.read_text().splitlines())
    return {(row["vid"], row["query"]): row for row in rows}


def assert_same(got, wanted):
    """Spans and facts exactly; numbers to what sums of a batch in another order may differ by."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        if name in ("spans", "vid", "query", "qid", "clips", "head", "duration", "rank") or value is None:
            assert got[name] == value, (name, got, wanted)
        elif name in ("fractions", "pred_relevant_windows"):
            for one, other in zip(got[name], value, strict=True):
                assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
        else:
            assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_a_single_request_gives_the_very_row_of_infer(features, bundles, tmp_path, run_cli, served):
    """A product that moves from files to the server would see other keys or other digits."""
    sentence = SENTENCES[0]
    out = tmp_path / "row.jsonl"
    options = ("--clip-seconds", "2", "--threads", "1", "--backend", "torch", "--video", "B", "--out", out)
    run_cli("infer", features.folder, "--bundle", bundles["tiny_glove"], "--query", sentence, *options)

    async def body(client):
        reply = await client.post("/v1/ground", json={"query": sentence, "videos": ["B"]})
        return reply.text

    text = served(body, features=features.folder, clip_seconds=2)
    row = json.dumps(json.loads(text)["answers"][0])
    assert row == json.dumps(json.loads(out.read_text()))
    assert json.dumps(json.loads(text)["answers"][0], separators=(",", ":")) in text


def test_answers_do_not_depend_on_who_else_asks(features, bundles, tmp_path, run_cli, served):
    """A stranger's request in the same batch would change an answer."""
    rows = asked(features, bundles, tmp_path, run_cli)
    rng = random.Random(0)
    kinds = [(vid, sentence) for vid in "ABCDEF" for sentence in SENTENCES]
    wanted = [rng.choice(kinds) for _ in range(500)]

    async def body(client):
        slots = asyncio.Semaphore(64)

        async def ask(vid, sentence):
            async with slots:
                reply = await client.post("/v1/ground", json={"query": sentence, "videos": [vid], "top_k": 3})
                assert reply.status_code == 200, reply.text
                return reply.json()["answers"]

        answers = await asyncio.gather(*(ask(*one) for one in wanted))
        return answers, (await client.get("/metrics")).text

    answers, metrics = served(body, features=features.folder, batch_size=32)
    for key, [row] in zip(wanted, answers, strict=True):
        assert_same(row, rows[key])
    batches = float(next(line for line in metrics.splitlines() if 'items_count{stage="ground"}' in line).split()[-1])
    assert batches < 250, "requests were not computed together"


def test_best_moments_of_a_library(features, bundles, tmp_path, run_cli, served):
    """The server's ranking would be another than that of `infer --best`."""
    out = tmp_path / "best.jsonl"
    common = ("--bundle", bundles["tiny_glove"], "--backend", "torch")
    done = run_cli("infer", features.folder, *common, "--query", SENTENCES[0], "--best", 4, "--out", out)
    assert done.code == 0, done.err
    wanted = [json.loads(line) for line in out.read_text().splitlines()]

    async def body(client):
        reply = await client.post("/v1/ground", json={"query": SENTENCES[0], "best": 4, "curves": True})
        return reply.json()

    found = served(body, features=features.folder)
    for row, other in zip(found["answers"], wanted, strict=True):
        assert_same(row, other)
    assert [len(one["saliency"]) for one in found["curves"]] == [row["clips"] for row in wanted]
