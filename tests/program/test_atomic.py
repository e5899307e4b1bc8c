import stat

import pytest

from fedjax_core.program._atomic import write_atomically


def test_replaces_the_file(tmp_path):
    path = tmp_path / "file"
    for text in (b"one", b"two"):
        write_atomically(path, lambda file, text=text: file.write(text))
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_file(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"whole")

    def write(file):
        file.write(b"ha")
        file.flush()
        raise failure

    with pytest.raises(failure):
        write_atomically(path, write)
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", lambda file: None)


def test_others_may_read_the_file(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    write_atomically(tmp_path / "file", lambda file: None)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
