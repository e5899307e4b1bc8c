"""Cohorts: what is known about them before anything is read."""

import numpy as np

from fedjax_core.engine import Cohort, client_digests
from tests import cohorts


def test_a_cohort_knows_its_type_and_size():
    cohort = cohorts.make_cohort(cohorts.make_population([5, 0]))
    assert len(cohort) == 2 and str(cohort.member_type) == "<x=float32[?,2],y=float32[?]>*"
    assert repr(cohort) == "Cohort(2 clients of <x=float32[?,2],y=float32[?]>*)"
    arrays = Cohort((1, 2), {"a": np.zeros((2, 3), np.float32)}, np.arange(2, dtype=np.int32), client_digests([1, 2]))
    assert str(arrays.member_type) == "<a=float32[3]>"
