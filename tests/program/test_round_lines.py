import pytest

from fedjax_core.program._round_lines import RoundLines, checked_round


def _open(path) -> RoundLines:
    return RoundLines(path, lambda line: int(line.split()[0]))


def test_appends_to_the_same_file(tmp_path):
    lines = _open(tmp_path / "lines")
    lines.put(1, "1 one")
    file = (tmp_path / "lines").stat().st_ino
    lines.put(2, "2 two")
    lines.put(5, "5 five")
    assert (tmp_path / "lines").read_text() == "1 one\n2 two\n5 five\n"
    assert (tmp_path / "lines").stat().st_ino == file
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_a_repeated_round_replaces_it_and_later_ones(tmp_path):
    lines = _open(tmp_path / "lines")
    for number in range(1, 6):
        lines.put(number, f"{number} first")
    _open(tmp_path / "lines").put(4, "4 again")
    assert (tmp_path / "lines").read_text() == "1 first\n2 first\n3 first\n4 again\n"


@pytest.mark.parametrize("torn", [b"3 thr", b"3 three", b"\xe2\x82"])
def test_a_torn_line_is_taken_off(tmp_path, torn):
    path = tmp_path / "lines"
    path.write_bytes(b"1 one\n2 two\n" + torn)
    lines = _open(path)
    assert lines.last == 2
    lines.put(3, "3 three")
    assert path.read_bytes() == b"1 one\n2 two\n3 three\n"


@pytest.mark.parametrize("meanwhile", [b"3 thr", b"3 three\n", b"3 three\n4 four\n", b"3 three\n4 fo"])
def test_what_was_written_meanwhile_is_noticed(tmp_path, meanwhile):
    """By a write of this process that was interrupted, or by another process."""
    path = tmp_path / "lines"
    lines = _open(path)
    lines.put(1, "1 one")
    lines.put(2, "2 two")
    with open(path, "ab") as file:
        file.write(meanwhile)
    lines.put(3, "3 again")
    lines.put(4, "4 four")
    assert path.read_bytes() == b"1 one\n2 two\n3 again\n4 four\n"


def test_a_file_that_is_nothing_but_torn(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"1 on")
    lines = _open(path)
    lines.put(1, "1 one")
    assert path.read_bytes() == b"1 one\n"


def test_a_file_that_was_removed_meanwhile_gets_its_header(tmp_path):
    lines = RoundLines(tmp_path / "lines", int, has_header=True)
    lines.put(1, "1", header="round")
    (tmp_path / "lines").unlink()
    lines.put(2, "2")
    assert (tmp_path / "lines").read_text() == "round\n2\n"


@pytest.mark.parametrize("content", [b"hello\n", b"\n", b"1 one\n\xff\n"])
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "lines"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds something else; choose another name"):
        _open(path)
    assert path.read_bytes() == content


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; make it first"):
        _open(tmp_path / "none" / "lines")


@pytest.mark.parametrize("number, error", [(1.0, TypeError), ("1", TypeError), (-1, ValueError)])
def test_numbers_of_rounds(number, error):
    with pytest.raises(error, match=r"release\(value, round_num\) takes"):
        checked_round(number)
