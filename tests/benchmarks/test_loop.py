"""The training loop against bare rounds: what is timed, and what memory is read."""

import loop
import pytest
import workloads


@pytest.fixture
def workload(data):
    return workloads.load("W1", data)


@pytest.mark.slow
def test_the_loop_and_bare_rounds_are_timed_in_turn(workload):
    measured = loop.measure_time(workload, 1, 1)
    assert measured["rounds"] == loop.CHUNK
    for kind in ("clock", "processor"):
        found = measured[kind]
        for bare in ("bare", "prefetching"):
            ratio = found[f"loop_over_{bare}"]["ratio"]
            assert found[f"{bare}_s"] > 0 and ratio == pytest.approx(found["loop_s"] / found[f"{bare}_s"])


def test_the_loop_leaves_checkpoints_and_all_releases(workload, tmp_path):
    numbers = []
    loop.Loop(workload, 1, tmp_path).run(20, lambda round: numbers.append(round.number))
    assert numbers == list(range(1, 21))
    assert {"checkpoints", "run", "releases.csv", "releases.jsonl", "tensorboard", "log"} == {
        path.name for path in tmp_path.iterdir()
    }
    assert len((tmp_path / "releases.csv").read_text().splitlines()) == 21
    assert len((tmp_path / "log").read_text().splitlines()) >= 20


def test_memory_is_read_along_the_rounds(workload):
    measured = loop.measure_memory(workload, 1, 20)
    assert list(measured["megabytes"]) == [str(i) for i in range(1, 21)]
    assert measured["growth"] == pytest.approx(measured["megabytes"]["20"] / measured["megabytes"]["1"] - 1)


def test_too_few_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        loop.main(["--memory-rounds", "5"])
    assert "at least 20" in capsys.readouterr().err
