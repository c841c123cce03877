"""Where compiled packages lie, which machine they run on, and which sizes they take. No package is compiled here."""

import json

import pytest

from img_deploy.errors import BackendError, BundleError
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime import aoti_files
from img_deploy.runtime.aoti_files import AotiMachine, AotiPackages, packages_in, place, this_machine
from img_deploy.runtime.backends import aoti
from img_deploy.runtime.bundle import MANIFEST, Bundle, write_manifest

HERE = AotiMachine("cpu", "Linux x86_64", "2.13.0", "EPYC", ("avx2", "fma"))


def packages(machine):
    files = {graph: place(machine.device, "fp32", graph) for graph in GRAPH_NAMES}
    ranges = {graph: {"batch": (1, 65536), "clips": (1, 16)} for graph in GRAPH_NAMES}
    return AotiPackages(machine, "fp32", files, ranges)


@pytest.fixture
def with_packages(bundles, tmp_path):
    """Function: a bundle with a record of packages, whose files hold no code."""
    import shutil

    def make(record):
        folder = tmp_path / "deploy"
        shutil.copytree(bundles["tiny_vlm"], folder)
        manifest = Bundle.open(folder).manifest
        for file in record.graphs.values():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(b"no package")
        record.write(folder)
        write_manifest(folder, manifest)
        return Bundle.open(folder)

    return make


def test_a_record_comes_back_as_it_was_written(with_packages):
    """Ranges read as strings, or a file of another graph, would be found at the first question."""
    bundle = with_packages(packages(HERE))
    assert packages_in(bundle, "cpu") == packages(HERE)
    assert packages_in(bundle, "cuda") is None
    bundle.manifest.precision = "fp16"
    assert packages_in(bundle, "cpu") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"torch": "2.12.0"}, "compiled for torch 2.13.0, this is 2.12.0"),
        ({"system": "Linux aarch64"}, "compiled for system Linux x86_64, this is Linux aarch64"),
        ({"features": ("fma",)}, "compiled for a CPU with avx2, which this one lacks"),
        ({"features": ("amx_tile", "avx2", "fma"), "processor": "Xeon"}, None),
        ({}, None),
    ],
)
def test_which_machines_a_package_runs_on(change, why):
    """Machine code with instructions that the CPU lacks ends the process without a word."""
    there = AotiMachine(**{**HERE.__dict__, **change})
    assert HERE.unfit(there) == why


def test_a_package_for_one_gpu_is_not_run_on_another():
    """A package holds code of one compute capability."""
    one = AotiMachine("cuda", "Linux x86_64", "2.11.0", "NVIDIA H200 (sm_90)")
    other = AotiMachine("cuda", "Linux x86_64", "2.11.0", "NVIDIA L4 (sm_89)")
    assert one.unfit(other) == "compiled for NVIDIA H200 (sm_90), this is NVIDIA L4 (sm_89)"
    assert one.unfit(one) is None


def test_sizes_beyond_the_compiled_ones_are_refused_in_one_line():
    """A package checks nothing: it would answer a video too long for its table of positions, wrongly."""
    record = packages(HERE)
    record.check("grounder", {"batch": 1, "clips": 16, "words": 3})
    for axis, size, told in (("clips", 17, "1 to 16"), ("clips", 0, "1 to 16"), ("batch", 65537, "1 to 65536")):
        sizes = {"batch": 1, "clips": 1, axis: size}
        with pytest.raises(BackendError, match=f"^grounder: got {size} {axis}, its package takes {told}$"):
            record.check("grounder", sizes)


def test_why_it_cannot_run(bundles, with_packages, monkeypatch):
    """`doctor` would not say how to make packages, or load those of another machine."""
    how = r"compile them for this machine with `img-deploy export --targets onnx,aoti`"
    plain = Bundle.open(bundles["tiny_vlm"])
    assert aoti.unavailable("cpu", plain) == f"the bundle has no fp32 packages for cpu; {how}"
    assert aoti.unavailable("cpu", None) is None
    monkeypatch.setattr(aoti, "cuda_devices", lambda: 0)
    assert aoti.unavailable("cuda", plain) == "no NVIDIA GPU"
    bundle = with_packages(packages(HERE))
    monkeypatch.setattr(aoti, "this_machine", lambda _device: HERE)
    assert aoti.unavailable("cpu", bundle) is None
    older = AotiMachine(**{**HERE.__dict__, "torch": "2.11.0"})
    monkeypatch.setattr(aoti, "this_machine", lambda _device: older)
    why = f"its packages do not run here (compiled for torch 2.13.0, this is 2.11.0); {how}"
    assert aoti.unavailable("cpu", bundle) == why
    with pytest.raises(BackendError, match=r"compiled for torch 2\.13\.0, this is 2\.11\.0"):
        aoti.open_backend("cpu", bundle, None)
    monkeypatch.setattr(aoti, "find_spec", lambda _name: None)
    assert aoti.unavailable("cpu", bundle) == "torch is not installed"


def test_a_changed_package_is_not_loaded(with_packages, monkeypatch):
    """Machine code that somebody else put into the bundle would run."""
    monkeypatch.setattr(aoti, "this_machine", lambda _device: HERE)
    bundle = with_packages(packages(HERE))
    path = bundle.folder / place("cpu", "fp32", "video_encoder")
    path.write_bytes(b"another package")
    with pytest.raises(BundleError, match=r"video_encoder.pt2: its content does not match the manifest's sha256"):
        aoti.open_backend("cpu", bundle, None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("machine"),
        lambda c: c["graphs"].pop("grounder"),
        lambda c: c.update(schema=2),
        lambda c: c.clear(),
    ],
)
def test_a_damaged_record_is_named(with_packages, damage):
    """A traceback, or a package run without its ranges."""
    bundle = with_packages(packages(HERE))
    path = bundle.folder / "aoti/cpu/fp32" / aoti_files.RECORD
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    write_manifest(bundle.folder, bundle.manifest)
    with pytest.raises(BundleError, match=r"packages\.json: not a record of packages"):
        packages_in(Bundle.open(bundle.folder), "cpu")
    assert (bundle.folder / MANIFEST).exists()


def test_the_machine_at_hand():
    """Packages would be refused on the machine that made them."""
    here = this_machine("cpu")
    assert here.unfit(this_machine("cpu")) is None
    assert here.torch != "none"
    assert AotiMachine(**{**here.__dict__, "features": (*here.features, "avx9000")}).unfit(here)
