"""Work that Ray's actors share: the rows of one process, whatever their number and whichever of them die."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pytest

from img_deploy.errors import BackendError, InputError
from img_deploy.features import open_folder
from img_deploy.runtime import ray_workers
from img_deploy.runtime.asking import Session
from img_deploy.runtime.encoded import Query
from img_deploy.runtime.index import VideoIndex
from img_deploy.runtime.indexing import index_folder
from img_deploy.runtime.lots import AskOptions, Request
from img_deploy.runtime.predictor import load_bundle
from img_deploy.runtime.queries import Plan
from img_deploy.runtime.workers import ThisProcess, open_workers


@pytest.fixture(scope="module")
def cluster():
    """Ray on three CPUs of this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=3, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def local(bundles):
    return ThisProcess(load_bundle(bundles["tiny_glove"], "torch", threads=1))


@pytest.fixture(scope="module")
def two(cluster, local):  # noqa: ARG001
    """Two workers; their work is given out once more after a death."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_workers, "RETRIES", 1)
        yield open_workers(local.bundle, local.rules, "torch", 1, "ray", 2)


@pytest.fixture
def folder(features, local):
    features.put("video/X.npy", b"")
    features.put("video/Y.npy", np.full((4, 24), np.nan, np.float32))
    rules = local.rules
    return open_folder(features.folder, rules.video, rules.audio, max_clips=rules.max_clips)


def at_work():
    return [one for one in psutil.Process().children(recursive=True) if "_Worker" in one.name()]


def test_rows_are_those_of_one_process_though_workers_die(two, local, folder, ears):
    """A row would be lost, doubled, moved or another in the last digit; or a bad video told once for each worker."""
    plan = Plan(tuple(folder.videos()), tuple(Query(f"w{number:03d} zebra{number}") for number in range(11)))
    heard = []

    def rows(workers, kill):
        told, found = ears(), []
        request = Request(folder.path, clip_seconds=2.0, options=AskOptions(top_k=2, batch_size=2))
        for lot in Session(request, folder, plan, {}, workers).answers(listener=told):
            if not found and kill:
                killed = at_work()
                assert len(killed) == 2
                for process in killed:
                    process.send_signal(signal.SIGKILL)
            found += [answer.to_row() for answer in lot]
        heard.append((told.errors, told.unknowns, told.pairs))
        return found

    expected = rows(local, kill=False)
    assert len(expected) == 66
    assert rows(two, kill=True) == expected
    assert heard[0] == heard[1]


def test_an_index_is_that_of_one_process(two, local, folder, tmp_path, ears):
    """A video would be missing, or encoded otherwise."""
    pytest.importorskip("lance", reason="Lance is not installed")
    tables = []
    for name, workers in (("one", local), ("two", two)):
        told = ears()
        made = index_folder(folder, workers, str(tmp_path / name), batch_size=2, listener=told)
        assert (made.added, made.skipped, len(told.errors)) == (6, 2, 2)
        tables.append(VideoIndex.open(tmp_path / name, local.bundle).dataset.to_table().to_pylist())
    assert tables[0] == tables[1]


def test_work_that_kills_every_worker_ends_the_run(two):
    """A video that crashes its reader would be given out for ever."""

    def make(_predictor):
        return lambda _: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(BackendError, match="a worker died, and 1 more at the same work") as caught:
        list(two.map(make, [0]))
    assert "\n" not in str(caught.value)


def test_from_the_command_line(cluster, run_cli, bundles, features, monkeypatch):  # noqa: ARG001
    """The options would do nothing, or answer otherwise, or find nothing at a path that is relative to this folder."""
    asked = ("infer", features.folder, "--bundle", bundles["tiny_glove"], "-q", "w001", "--backend", "torch")
    form = ("--format", "jsonl", "--quiet", "--threads", 1)
    one = run_cli(*asked, *form)
    monkeypatch.chdir(features.folder.parent)
    for place in (f"file://{features.folder}", features.folder.name):
        asked = ("infer", place, *asked[2:])
        ray = run_cli(*asked, *form, "--engine", "ray", "--workers", 1)
        assert (one.code, ray.code, ray.err) == (0, 0, "")
        assert one.out == ray.out
    many = run_cli(*asked, "--engine", "ray", "--workers", 9)
    assert (many.code, many.err.count("\n")) == (2, 1)
    assert "got 9 of 1 threads, but the cluster has room for 3" in many.err


ALONE = """
import sys
from img_deploy.cli.main import main
main(["infer", *sys.argv[1:], "-q", "w001", "--backend", "torch", "--quiet", "--engine", "ray", "--workers", "1"])
"""


def test_nothing_beside_the_answers(bundles, features):
    """Each run would begin with a warning of Ray's, which writes past Python; or wait for a cluster that has died."""
    pytest.importorskip("ray", reason="Ray is not installed")
    command = [sys.executable, "-c", ALONE, str(features.folder), "--bundle", str(bundles["tiny_glove"])]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with TemporaryDirectory() as folder:  # names of sockets are short
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
        environment |= {"RAY_TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_ray(local, monkeypatch):
    """A user would see a traceback, and not what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'img-deploy\[ray\]'"):
        open_workers(local.bundle, local.rules, "torch", 1, "ray")
    with pytest.raises(InputError, match="--workers: is for --engine ray"):
        open_workers(local.bundle, local.rules, "torch", 1, count=2)
