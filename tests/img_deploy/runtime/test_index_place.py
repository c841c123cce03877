"""The place of an index: free, taken, locked, damaged or full, and whole after any kill."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from img_deploy.errors import FeatureError, ImgDeployError, InputError
from img_deploy.features import open_folder
from img_deploy.runtime import indexing
from img_deploy.runtime.index import VideoIndex, is_index
from img_deploy.runtime.indexing import index_folder
from img_deploy.runtime.workers import ThisProcess

pytest.importorskip("lance", reason="Lance is not installed")


def test_two_writers(indexed):
    """Both would append the same videos."""
    indexed()
    link = indexed.path + "-too"
    os.symlink(indexed.path, link)
    for path in (indexed.path, link):
        with indexing.only_writer(path), pytest.raises(InputError, match="another program is writing it"):
            indexed()


def test_what_is_no_index_is_left_alone(indexed, run_cli, bundles, tmp_path):
    """A folder of something else would be filled or taken for an index."""
    place = tmp_path / "library"
    place.mkdir()
    (place / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something that is no index"):
        indexed()
    assert not is_index(place)
    assert os.listdir(place) == ["thesis.txt"]
    (place / "_versions").mkdir()
    done = run_cli("infer", place, "-q", "w001", "--bundle", bundles["tiny_glove"])
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "cannot be opened as an index" in done.err
    assert ".rs:" not in done.err  # where in Lance's source it came up


def test_a_damaged_index(indexed, run_cli, bundles, predictor):
    """A lost or cut file of it would end in a traceback of Lance's."""
    indexed()
    opened = VideoIndex.open(indexed.path, predictor.bundle)
    [file] = pathlib.Path(indexed.path, "data").iterdir()
    content = file.read_bytes()
    for damage in (lambda: file.write_bytes(content[:2000]), file.unlink):
        damage()
        with pytest.raises(FeatureError, match=r"cannot be read .*index the features anew"):
            opened.encoded(["A"])
        done = run_cli("infer", indexed.path, "-q", "w001", "--bundle", bundles["tiny_glove"])
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "cannot be opened as an index" in done.err


def test_a_folder_that_is_no_index_is_said_to_be_none(features, predictor):
    """The user would read of a missing file of Lance's."""
    with pytest.raises(InputError, match="got no index, expected one; `img-deploy index FEATURES --out INDEX` makes"):
        VideoIndex.open(features.folder, predictor.bundle)


@pytest.mark.parametrize(
    ("place", "why"), [("nosuch://bucket/x", "no index can be made there"), ("/", "holds something that is no index")]
)
def test_a_place_where_no_index_can_be_made(predictor, features, place, why):
    """A mistyped bucket would end with an error that names neither it nor what was tried, or with a traceback."""
    folder = open_folder(features.folder, predictor.rules.video, predictor.rules.audio, max_clips=9)
    with pytest.raises(InputError, match=f"^{place}: {why}"):
        index_folder(folder, ThisProcess(predictor), place)


def test_a_full_disk(indexed, features, monkeypatch):
    """The error would name neither the index nor what failed, but a place in Lance's source."""
    indexed()
    features.add("G")

    def full(*_arguments, **_options):
        raise OSError("LanceError(IO): No space left on device (os error 28), /home/lance/rust/writer.rs:190:9")

    monkeypatch.setattr(indexing.lance_module(), "write_dataset", full)
    with pytest.raises(ImgDeployError) as caught:
        indexed()
    said = "writing failed (LanceError(IO): No space left on device (os error 28)); what is in it stays as it is"
    assert str(caught.value) == f"{indexed.path}: {said}"


KILLED = """
import sys
from img_deploy.features import open_folder
from img_deploy.runtime import indexing
from img_deploy.runtime.predictor import load_bundle
from img_deploy.runtime.workers import ThisProcess
from img_deploy.runtime.writers import RowWriter
indexing.COMMIT_SECONDS = 0.0
bundle, features, path = sys.argv[1:]
predictor = load_bundle(bundle, "torch", threads=1)
rules = predictor.rules
print("ready", flush=True)
folder = open_folder(features, rules.video, rules.audio, max_clips=rules.max_clips)
indexing.index_folder(folder, ThisProcess(predictor), path, batch_size=1)
"""


def test_killed_at_any_moment(indexed, features, bundles, predictor):
    """A kill would leave an index that does not open, loses what was committed, or holds a video twice."""
    for number in range(24):
        features.add(f"K{number}", 3 + number % 5)
    command = [sys.executable, "-c", KILLED, str(bundles["tiny_glove"]), str(features.folder), indexed.path]
    least = 0
    for pause in (0.05, 0.3, 0.6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if is_index(indexed.path):
            table = VideoIndex.open(indexed.path, predictor.bundle).dataset.to_table(columns=["vid"])
            videos = table["vid"].to_pylist()
            assert len(videos) == len(set(videos)) >= least
            least = len(videos)
    done = indexed()
    assert done.added + done.kept == 30
    names = sorted([*"ABCDEF", *(f"K{number}" for number in range(24))])
    assert VideoIndex.open(indexed.path, predictor.bundle).videos() == names


KILLED_AT_ONCE = (
    """
import os
from pathlib import Path
import lance
def killed(_table, path, **_options):
    Path(path, "_transactions").mkdir(parents=True)
    os._exit(9)
lance.write_dataset = killed
"""
    + KILLED
)


def test_killed_while_it_is_made(indexed, features, bundles):
    """What a kill leaves of a first version would be taken for something else, and block the index for good."""
    arguments = [str(bundles["tiny_glove"]), str(features.folder), indexed.path]
    done = subprocess.run([sys.executable, "-c", KILLED_AT_ONCE, *arguments], capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    assert indexed().added == 6


def test_an_empty_folder_becomes_an_index(indexed, tmp_path):
    """A kill between making the folder and its first version would block the index for good."""
    (tmp_path / "library").mkdir()
    assert indexed().added == 6
    shutil.rmtree(tmp_path / "library")
    assert indexed().added == 6


def test_an_empty_folder_stays_what_it_is(indexed, tmp_path):
    """One that is mounted could not be replaced; another would lose its group's rights, or be no working directory."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library").chmod(0o2775)
    before = os.stat(tmp_path / "library")
    assert indexed().added == 6
    after = os.stat(tmp_path / "library")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(os.listdir(tmp_path)) == ["features", "library"]


def test_the_working_directory_becomes_an_index(predictor, features, tmp_path, monkeypatch):
    """``--out .`` would make an index where nobody finds it."""
    folder = open_folder(features.folder, predictor.rules.video, predictor.rules.audio, max_clips=9)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for expected in (6, 0):
        assert index_folder(folder, ThisProcess(predictor), ".").added == expected


def test_a_link_to_a_folder_that_is_not_there(indexed, tmp_path):
    """The link would be replaced, or refused."""
    os.symlink("elsewhere", indexed.path)
    assert indexed().added == 6
    assert is_index(tmp_path / "elsewhere")
    os.unlink(indexed.path)
    os.symlink("no/folder", indexed.path)
    with pytest.raises(InputError, match=r"there is no folder .*/no; create it"):
        indexed()


def test_what_a_killed_writer_left_is_deleted(indexed, tmp_path):
    """Each kill would leave rows of no version, for days."""
    indexed()
    left = tmp_path / "library" / "data" / "left.lance"
    left.write_bytes(b"half")
    assert indexed().kept == 6
    assert not left.exists()
