"""Backends in processes that did not open them: forked children, spawned ones, and servers that fork their workers."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from img_deploy.errors import BackendError
from img_deploy.runtime.backends.choose import choose
from img_deploy.runtime.bundle import Bundle

BUNDLE = "bundle_of_0.1/bundle"
SECONDS = 60

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def program(golden, backend: str, rest: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has opened a backend, asked it once with several threads, and then does ``rest``."""
    code = f"""
        import os, signal, sys, time
        import numpy as np
        from img_deploy.errors import BackendError
        from img_deploy.runtime.backends.choose import choose
        from img_deploy.runtime.bundle import Bundle

        bundle = Bundle.open({str(golden / BUNDLE)!r})
        clips, words = (np.ones((64, size, bundle.manifest.model.dim), np.float32) for size in (16, 9))
        feeds = {{"visual_clips": clips, "visual_words": words,
                  "clip_mask": clips[..., 0] > 0, "word_mask": words[..., 0] > 0}}

        def opened():
            return choose(bundle, {backend!r}, threads=4).backend

        backend = opened()

        def ask(backend):
            return backend.run("visual_grounder", feeds)["start_logits"]

        def ended(pid):
            for _ in range({SECONDS * 20}):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hung"

        wanted = ask(backend)
    """
    text = textwrap.dedent(code) + textwrap.dedent(rest)
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=4 * SECONDS, check=False
    )


@pytest.mark.parametrize("backend", ["torch:cpu", "onnxruntime:cpu"])
def test_an_inherited_backend_refuses_at_once_and_a_new_one_answers(golden, backend):
    """A worker would hang for ever on its first question, or could not be mended by loading the bundle itself."""
    done = program(
        golden,
        backend,
        """
        pid = os.fork()
        if pid == 0:
            try:
                ask(backend)
            except BackendError as error:
                print(error, flush=True)
            backend.close()
            print(float(abs(ask(opened()) - wanted).max()) < 1e-5, flush=True)
            sys.exit(0)
        print("child:", ended(pid), "parent:", bool((ask(backend) == wanted).all()))
        """,
    )
    name = backend.partition(":")[0]
    assert done.stdout.splitlines() == [
        f"backend {name}: this engine was loaded in another process; call load_bundle in this one",
        "True",
        "child: 0 parent: True",
    ], done.stderr


@pytest.mark.parametrize("backend", ["torch:cpu", "onnxruntime:cpu"])
def test_a_child_that_only_inherits_ends_normally(golden, backend):
    """Each worker of a server would hang or crash when it is told to stop."""
    done = program(
        golden,
        backend,
        """
        pid = os.fork()
        if pid == 0:
            del backend
            sys.exit(3)
        print("child:", ended(pid), flush=True)
        """,
    )
    assert done.stdout == "child: 3\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("backend", ["torch:cpu", "onnxruntime:cpu"])
def test_a_server_that_forks_its_workers(golden, backend):
    """A server that loads before it forks would hang at its first request; one that loads after would have to answer
    nothing else than one process does."""
    done = program(
        golden,
        backend,
        """
        def work(requests, answers):
            own = backend
            for request in iter(lambda: os.read(requests, 1), b"q"):
                try:
                    found = float(abs(ask(own) - wanted).max()) < 1e-5
                except BackendError:
                    own = opened()
                    found = float(abs(ask(own) - wanted).max()) < 1e-5
                os.write(answers, b"y" if found else b"n")
            sys.exit(0)

        workers = []
        for _ in range(2):
            requests, send = os.pipe()
            receive, answers = os.pipe()
            pid = os.fork()
            if pid == 0:
                work(requests, answers)
            workers.append((pid, send, receive))
        for _, send, _ in workers * 2:
            os.write(send, b"?")
        print([os.read(receive, 1) + os.read(receive, 1) for _, _, receive in workers], flush=True)
        for _, send, _ in workers:
            os.write(send, b"q")
        print([ended(pid) for pid, _, _ in workers])
        """,
    )
    assert done.stdout.splitlines() == ["[b'yy', b'yy']", "[0, 0]"], done.stderr


def ask_anew(folder: str) -> tuple[int, ...]:
    bundle = Bundle.open(folder)
    clips, words = (np.ones((1, size, bundle.manifest.model.dim), np.float32) for size in (3, 2))
    masks = {"clip_mask": clips[..., 0] > 0, "word_mask": words[..., 0] > 0}
    feeds = {"visual_clips": clips, "visual_words": words, **masks}
    return choose(bundle, "onnxruntime:cpu", threads=1).backend.run("visual_grounder", feeds)["start_logits"].shape


def test_a_spawned_process_loads_for_itself(golden):
    """Nothing of the parent's may be taken for inherited in a process that was started anew."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(ask_anew, (str(golden / BUNDLE),)) == (1, 3)


def test_the_error_reaches_the_parent_of_a_pool():
    """A pool hands errors over as pickles: one that does not survive hangs the pool."""
    error = pickle.loads(pickle.dumps(BackendError("backend torch: was closed")))
    assert (type(error), str(error)) == (BackendError, "backend torch: was closed")
