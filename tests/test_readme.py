"""Every program in the README runs, and prints what it says."""

import doctest
import pathlib
import re

import pytest

_README = pathlib.Path(__file__).parent.parent / "README.md"


def _blocks(language: str) -> list[tuple[int, str]]:
    """The code blocks of a language, each with the number of its first line."""
    text = _README.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def test_the_opening_program_learns(capsys):
    (_, program), *_ = _blocks("python")
    lines = program.strip().split("\n")
    assert len(lines) <= 32
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.strip().split("\n")
    assert [line.partition(":")[0] for line in printed] == [f"round {i}" for i in (10, 20, 30, 40, 50)]
    assert float(re.search(r"accuracy (\S+)%", printed[-1])[1]) > 90


@pytest.mark.slow
def test_the_tour_prints_what_it_says():
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    names, report = {}, []
    for line, block in _blocks("pycon"):
        test = doctest.DocTestParser().get_doctest(block, names, "README.md", str(_README), line)
        runner.run(test, out=report.append, clear_globs=False)
        names = test.globs
    assert runner.summarize(verbose=False).attempted > 20
    assert not report, "".join(report)


def test_the_map_names_every_room():
    package = _README.parent / "fedjax_core"
    rooms = {path.stem for path in package.iterdir() if not path.stem.startswith((".", "_")) and path.stem != "py"}
    named = re.findall(r"^\| `(\w+)` \|", _README.read_text(), re.MULTILINE)
    assert set(named) == rooms
    assert len(named) == len(rooms)


def test_the_two_commands_are_there():
    commands = [block.strip() for _, block in _blocks("bash")]
    assert commands == ["pip install -e '.[all]' && fedjax-core train", "pip install -e '.[test]' && pytest"]
