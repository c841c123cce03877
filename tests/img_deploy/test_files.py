"""Files that are whole or absent."""

import os

import pytest

from img_deploy.files import write_text


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
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "")
