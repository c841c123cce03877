"""Files that are whole or absent."""

import os

import pytest

from img_deploy.files import replacing_folder, write_text


def test_what_is_no_file_stays_what_it_is(tmp_path):
    """`--json /dev/null` as root would put a file in the place of the device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "written")
        assert os.read(reader, 100) == b"written"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    for folder in (tmp_path, ".", "/"):
        with pytest.raises(IsADirectoryError):
            write_text(folder, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the full device of Linux")
def test_a_full_disk_names_the_file():
    """`error: No space left on device` would not say which of several outputs is meant."""
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text("/dev/full", "written")


@pytest.mark.parametrize("folder", [".", "..", ""])
def test_the_current_folder_is_not_replaced(folder, tmp_path, monkeypatch):
    """`export --out .` would leave the user in a deleted folder, beside a bundle that is not seen from there."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OSError, match="is the current folder or holds it"), replacing_folder(folder):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
