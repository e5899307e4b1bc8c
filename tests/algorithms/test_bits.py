"""Whole rounds leave the same bits for any number of devices up to 16, any order of clients and any waves."""

import json
import subprocess
import sys

import pytest

from tests.algorithms import bits_worker

DEVICES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
# Each number of devices is compiled for, and the tree knows nothing of the aggregators: most are tried on a few.
FEW_DEVICES = (1, 3, 16)


def assert_same_bits(digests: dict[str, str]):
    """Checks that the variant of every name left the bits of one device."""
    assert {name: found == digests["1 devices"] for name, found in digests.items()} == dict.fromkeys(digests, True)


def test_a_round_of_averaging_has_the_same_bits_on_three_devices_in_any_order_and_waves():
    digests = bits_worker.digests("mean", [1, 3])
    assert len(digests) == 6
    assert_same_bits(digests)


@pytest.mark.slow
@pytest.mark.parametrize("case", bits_worker.CASES)
def test_up_to_16_devices_change_no_bit(case):
    """Two rounds of federated averaging with server Adam for an aggregator, or every kind of reduction."""
    devices = DEVICES if case in ("mean", "operators") else FEW_DEVICES
    # The tests themselves have eight devices.
    command = [sys.executable, bits_worker.__file__, ",".join(map(str, devices)), case]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    digests = json.loads(finished.stdout.splitlines()[-1])[case]
    assert len(digests) >= len(devices) + 2
    assert_same_bits(digests)
