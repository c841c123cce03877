"""Which backend answers, and what is said of the others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from img_deploy.errors import BackendError, BundleError, InputError
from img_deploy.runtime.backends import choose as choosing
from img_deploy.runtime.backends.choose import Entry, backend_names, choose, grouped, survey
from img_deploy.runtime.bundle import Bundle


class Fake:
    """A backend's module."""

    def __init__(self, why=None, error=None):
        self.why, self.error, self.opened = why, error, []

    def unavailable(self, device, bundle):  # noqa: ARG002
        return self.why

    def open_backend(self, device, bundle, threads):  # noqa: ARG002
        if self.error:
            raise self.error
        self.opened.append((device, threads))
        return SimpleNamespace(name="fake", device=device, precision="fp16")


@pytest.fixture
def registry(monkeypatch):
    """Function: put modules in the registry's place, fastest first, called a, b, c, ..."""

    def put(*modules):
        entries = []
        for name, module in zip("abcdef", modules, strict=False):
            monkeypatch.setitem(sys.modules, f"fake_backend_{name}", module)
            entries.append(Entry(name, "cpu", f"fake_backend_{name}"))
        monkeypatch.setattr(choosing, "REGISTRY", tuple(entries))

    return put


BUNDLE = SimpleNamespace(manifest=SimpleNamespace(files={}))


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(registry):
    """`auto` would take a slower backend, or pass over a faster one in silence."""
    last = Fake()
    works = Fake()
    registry(Fake(why="no GPU"), Fake(error=BackendError("its library is broken")), works, last)
    choice = choose(BUNDLE, "auto", threads=3)
    assert works.opened == [("cpu", 3)]
    assert last.opened == []
    assert choice.out == {"a:cpu": "no GPU", "b:cpu": "its library is broken"}
    assert str(choice) == (
        "backend fake on cpu, fp16 (the fastest that works here; a:cpu: no GPU; b:cpu: its library is broken)"
    )


def test_a_backend_asked_for_is_never_replaced(registry):
    """Someone who asks for a backend would measure another one."""
    registry(Fake(), Fake(why="no GPU"))
    with pytest.raises(BackendError, match=r"backend b: none works on this machine \(b:cpu: no GPU\)"):
        choose(BUNDLE, "b")
    assert choose(BUNDLE, "a:cpu").reason == "as asked for"
    for wrong in ("c", "a:cuda", ""):
        with pytest.raises(InputError, match="expected one of auto, a, b"):
            choose(BUNDLE, wrong)
    for threads in (0, 10**6, 2.5, "2", True):
        with pytest.raises(InputError, match=f"threads: got {threads!r}"):
            choose(BUNDLE, "a", threads=threads)


def test_a_damaged_bundle_is_not_a_reason_for_another_backend(registry):
    """A tampered file would be passed over in silence."""
    registry(Fake(error=BundleError("its hash does not match")), Fake())
    with pytest.raises(BundleError, match="hash"):
        choose(BUNDLE)


def test_one_reason_is_given_once():
    """On a machine without a GPU the line would say so six times."""
    assert grouped({"a:cuda": "no GPU", "c:cpu": "no file", "b:cuda": "no GPU"}) == [
        "a:cuda, b:cuda: no GPU",
        "c:cpu: no file",
    ]


def test_survey_asks_every_entry(registry):
    """`doctor` would not tell of a backend."""
    registry(Fake(why="no GPU"), Fake())
    assert [(entry.name, why) for entry, why in survey()] == [("a", "no GPU"), ("b", None)]


def test_the_real_registry(bundles):
    """A bundle with weights alone would not run, or its ONNX graphs would be missed too late."""
    assert backend_names() == ["tensorrt", "tensorrt-rtx", "triton", "onnxruntime", "torch", "onnxruntime-tensorrt"]
    bundle = Bundle.open(bundles["tiny_vlm"])
    out = {entry.label: why for entry, why in survey(bundle)}
    assert out["torch:cpu"] is None
    assert "no fp32 ONNX graphs" in out["onnxruntime:cpu"]
    assert choose(bundle, "auto").backend.name == "torch"
    with pytest.raises(BackendError, match="no fp32 ONNX graphs"):
        choose(bundle, "onnxruntime:cpu")


def test_packages_of_an_earlier_version_are_not_used(golden, run_cli):
    """An old bundle would not open any more, or its packages lie there for ever without a word."""
    folder = golden / "bundle_of_0.1" / "bundle"
    note = "aoti: its packages in this bundle are no longer used"
    for name in ("auto", "onnxruntime"):
        assert str(choose(Bundle.open(folder), name)).count(note) == 1
    inspected = run_cli("inspect", folder)
    assert inspected.code == 0
    assert inspected.out.count("no longer used") == 1
    with pytest.raises(InputError, match="expected one of auto"):
        choose(Bundle.open(folder), "aoti")


def test_choosing_loads_no_framework():
    """`--help`, `doctor` or a machine without torch would load it, or fail."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnxruntime'] = None\n"
        "from img_deploy import hardware\n"
        "from img_deploy.runtime.backends import choose, protocol\n"
        "print(choose.backend_names(), hardware.cuda_devices() >= 0, hardware.usable_cpus() > 0)\n"
        "print([why for entry, why in choose.survey() if entry.device == 'cpu'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = ["tensorrt", "tensorrt-rtx", "triton", "onnxruntime", "torch", "onnxruntime-tensorrt"]
    assert done.stdout.splitlines()[0] == f"{names} True True"
    assert "onnxruntime is not installed" in done.stdout
    assert "torch is not installed" in done.stdout
