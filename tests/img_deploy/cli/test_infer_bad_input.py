"""Everything a user can get wrong ends ``img-deploy infer`` with one clear line and exit code 2."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest


class Hostile:
    """Code in a pickle: unpickling it would write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def infer(run_cli, bundles, features):
    """Function: infer on the six videos; exit code, and the lines on standard error."""

    def run(*arguments, bundle=None, folder=None, name="tiny_glove"):
        options = ("--bundle", bundle or bundles[name], "--backend", "torch", "--threads", 1, "--quiet")
        return run_cli("infer", folder or features.folder, *options, *arguments)

    return run


def one_line(done, *told, code=2):
    """The command ended as it should for a user's mistake."""
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for text in told:
        assert text in done.err


def truncated(array):
    import io

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()[:-40]


GOOD = np.ones((6, 24), np.float32)
SOUND = np.ones((6, 20), np.float32)
BAD_FILES = {
    "NaN": ("video", np.where(np.arange(24) == 7, np.nan, GOOD), "got NaN at clip 0"),
    "Inf": ("video", GOOD * np.inf, "got Inf at clip 0"),
    "too large": ("video", GOOD * np.float32(3e38), "features too large"),
    "width": ("video", GOOD[:, :5], "got width 5, expected 24"),
    "no clips": ("video", GOOD[:0], "got no clips"),
    "no numbers": ("video", np.array([["a"] * 24]), "got dtype"),
    "axes": ("video", np.ones((3, 4, 24)), "got shape (3, 4, 24)"),
    "0 bytes": ("video", b"", "got an empty file (0 bytes)"),
    "truncated": ("video", truncated(GOOD), "the file is cut short"),
    "objects": ("video", np.array([[None] * 24]), "an array of Python objects"),
    "text": ("video", b"1.0 2.0 3.0\n", "got a text file"),
    "pickle": ("video", pickle.dumps(GOOD), "got a pickle"),
    "audio NaN": ("audio", SOUND * np.nan, "got NaN at clip 0"),
    "audio width": ("audio", SOUND[:, :5], "got width 5, expected 20"),
    "audio truncated": ("audio", truncated(SOUND), "the file is cut short"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_feature_file(infer, features, case):
    """A broken file would be answered, or end in a traceback; among others it would take them with it."""
    kind, content, told = BAD_FILES[case]
    features.put(f"{kind}/B.npy", content)
    one_line(infer("--query", "w001", "--video", "B"), "B", told)
    done = infer("--query", "w001", "--format", "jsonl")
    assert done.code == 0
    assert len(done.out.splitlines()) == 5
    assert done.err.startswith("skipped: ")
    assert told in done.err


def test_code_in_files_is_never_run(infer, features, tmp_path):
    """A feature file from somewhere would take over the machine."""
    target = tmp_path / "taken-over"
    code = pickle.dumps(Hostile(target))
    features.put("video/A.npy", code)
    features.put("video/B.npy", np.array([[Hostile(target)] * 24]))
    features.put("audio/D.npy", np.array([[Hostile(target)] * 20]))
    done = infer("--query", "w001", "--format", "jsonl")
    assert done.code == 0
    assert done.err.count("skipped: ") == 3
    assert not target.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(infer, features):
    """A file without permission would end in a traceback."""
    (features.folder / "video" / "B.npy").chmod(0)
    one_line(infer("--query", "w001", "--video", "B"), "no permission to read it")


def test_directory_in_the_place_of_a_file(infer, features):
    """A folder called B.npy would end in a traceback."""
    (features.folder / "video" / "B.npy").unlink()
    (features.folder / "video" / "B.npy").mkdir()
    one_line(infer("--query", "w001", "--video", "B"), "got a directory")


def test_nothing_left_to_answer(infer, features):
    """A run that answered nothing would end as if all were well."""
    for vid in "ABCDEF":
        features.put(f"video/{vid}.npy", GOOD * np.nan)
    done = infer("--query", "w001", "--format", "jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("skipped: ") == 6
    assert (
        done.err.splitlines()[-1] == "error: nothing could be answered: all 6 pairs of a video and a query were skipped"
    )


def test_bad_folders(infer, features, tmp_path):
    """A wrong folder would be taken for an empty one."""
    one_line(infer("--query", "w001", folder=tmp_path / "nowhere"), "nowhere: no such file")
    one_line(infer("--query", "w001", folder=features.folder / "video"), "did you mean")
    one_line(infer("--query", "w001", folder=features.folder / "video" / "A.npy"), "A.npy")
    for vid in "ABCDEF":
        features.put(f"video/{vid}.npy", GOOD[:, :5])
    one_line(infer("--query", "w001"), "width 5", "width 24")
    one_line(infer("--query", "w001", "--video", "Q"))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "--query: got nothing after it"),
        ("  \t", "got no words"),
        ("\x00\x1b", "got no words"),
        ("x" * 300, "a word of 300 characters"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_bad_query(infer, query, told):
    """An empty query, or one of an endless word, would be answered, also when good ones are asked beside it."""
    one_line(infer("--query", query), told)
    one_line(infer("--query", "w001", "--query", query), told)


def test_one_bad_query_in_a_file_is_skipped(infer, write_lines):
    """One overlong word would end a run over thousands; a long sentence is asked by its first words."""
    file = write_lines("q.txt", "w001", "w" * 500, "w002 " * 500)
    done = infer("--queries", file, "--video", "A", "--format", "jsonl")
    assert done.code == 0
    assert len(done.out.splitlines()) == 2
    assert done.err.startswith("skipped: query 'www")


def test_bad_query_files(infer, write_lines, tmp_path):
    """A broken annotation file would be read in part, and a pipe be waited for."""
    os.mkfifo(tmp_path / "pipe")
    row = {"qid": 1, "query": "w001", "vid": "A"}
    for file, told in [
        (write_lines("twice.jsonl", row, row | {"query": "w002"}), "got qid 1 again"),
        (write_lines("cut.jsonl", row, '{"qid": 2, "query"'), "cut.jsonl:2"),
        (write_lines("fields_qid.txt", "A 1.0##qid_1##w001"), "expected 'VID START END##qid_N##sentence'"),
        (write_lines("zero.jsonl", row | {"duration": 0}), "zero.jsonl:1"),
        (write_lines("empty.txt"), "empty.txt"),
        (tmp_path, "got a directory"),
        (tmp_path / "pipe", "got a pipe or a device"),
        (tmp_path / "nowhere.txt", "no such file"),
    ]:
        one_line(infer("--queries", file), told)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["vid,seconds", "A,0"], "lengths.csv:2"),
        (["A,-3"], "lengths.csv:1"),
        (["A,nan"], "lengths.csv:1"),
        (["A,"], "lengths.csv:1"),
        (["A"], "expected 'vid,seconds'"),
        (["A,3", "A,4"], "lengths.csv:2"),
    ],
)
def test_bad_durations(infer, write_lines, lines, told):
    """Moments would be given in seconds of a video without length."""
    one_line(infer("--query", "w001", "--durations", write_lines("lengths.csv", *lines)), told)


def test_bad_options(infer, write_lines, tmp_path):
    """Options that contradict each other, or that the bundle has no use for, would be passed over in silence."""
    lengths = write_lines("lengths.csv", "A,3")
    for arguments, told in [
        (("--clip-seconds", 0), "--clip-seconds: got 0.0"),
        (("--clip-seconds", -1), "--clip-seconds: got -1.0"),
        (("--clip-seconds", "nan"), "--clip-seconds: got nan"),
        (("--clip-seconds", 1, "--durations", lengths), "got both"),
        (("--durations", tmp_path), "got a directory"),
        (("--text-features", tmp_path), "this bundle takes sentences"),
        (("--glove", tmp_path / "nowhere.txt"), "nowhere.txt: no such file"),
        (("--glove", tmp_path), "got a folder, expected a GloVe text file"),
        (("--threads", 10**6), "'--threads'"),
        (("--backend", "tensor"), "backend: got 'tensor', expected one of auto"),
        (("--video", "AA"), "no features for video 'AA'"),
    ]:
        one_line(infer("--query", "w001", *arguments), told)
    one_line(infer(), "queries: got none")
    one_line(infer("--query", "w001", "--glove", lengths, name="tiny_vlm"), "not words; drop --glove")


def test_backend_that_cannot_run(infer):
    """Another backend would answer than the one asked for (exit code 1: the machine's fault, not the input's)."""
    one_line(infer("--query", "w001", "--backend", "onnxruntime"), "no fp32 ONNX graphs", code=1)


def test_unwritable_output(infer, tmp_path):
    """Hours of work would end in a file that cannot be written."""
    one_line(infer("--query", "w001", "--out", tmp_path), "got a folder, expected a file")
    one_line(infer("--query", "w001", "--out", tmp_path / "no" / "where.jsonl"), "there is no folder")
    one_line(infer("--query", "w001", "--out", "/proc/out.jsonl"), "/proc/out.jsonl", "cannot be written")


def test_bad_bundles(infer, bundles, tmp_path):
    """A damaged or tampered bundle would answer."""
    import json

    def changed(name, change):
        folder = Path(shutil.copytree(bundles["tiny_glove"], tmp_path / name))
        change(folder)
        return folder

    def manifest(**values):
        def change(folder):
            path = folder / "manifest.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | values))

        return change

    def flip(folder):
        path = folder / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    digest = {"../outside": "0" * 64}
    for folder, told in [
        (tmp_path / "nowhere", "got nothing, expected a bundle folder"),
        (bundles["tiny_glove"] / "manifest.json", "got a file, expected a bundle folder"),
        (tmp_path, "so it is no bundle"),
        (changed("hash", flip), "does not match the manifest's sha256"),
        (changed("words", lambda b: (b / "vocabulary" / "vocabulary.json").write_text("{}")), "sha256"),
        (changed("gone", lambda b: (b / "weights.safetensors").unlink()), "missing, though the manifest lists it"),
        (changed("cut", lambda b: (b / "manifest.json").write_text('{"schema": 1')), "not readable as JSON"),
        (changed("outside", manifest(files=digest)), "'../outside' outside its bundle"),
        (changed("newer", manifest(schema=2)), "got schema 2, this program reads up to 1"),
    ]:
        one_line(infer("--query", "w001", bundle=folder), told)


def test_control_characters_stay_out_of_the_terminal(infer, features):
    """A file name or query could move the cursor and forge lines."""
    features.add("\x1b[2JX", 4)
    done = infer("--query", "w001\x1b[31m w002")
    assert done.code == 0
    assert "\x1b" not in done.out
    features.put("video/\x1b[2JX.npy", b"")
    done = infer("--query", "w001")
    assert done.err.startswith("skipped: ")
    assert "\x1b" not in done.err
    one_line(infer("--query", "w001", "--video", "\x1b[2JY"), "no features for video")
    assert "\x1b" not in infer("--query", "w001", "--bundle", "no\x1bwhere").err


def test_more_at_once_than_can_be_counted(infer):
    """Python's own error about its counters would be shown."""
    one_line(infer("--query", "w001", "--batch-size", "9" * 20), "--batch-size")
