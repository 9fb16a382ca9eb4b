# Labels: release-only alone
"""Goal:   over billions of records, hundreds of deaths of ranks and tens of the aggregator, no counter goes back, the
        last totals are exact to the record, and memory, descriptors, shared memory and series stay flat.
Method: see soak.py; RANKBUS_SOAK_RECORDS records, 10^10 unless it is set. tests/README.md has what came of it.
Replay: RANKBUS_SOAK_RECORDS=1000000000 RANKBUS_TEST_SEED=<printed> ctest --test-dir build/release -R long_soak -V
"""

import os
import random
import unittest

import lib
import soak

RECORDS = int(float(os.environ.get("RANKBUS_SOAK_RECORDS") or 1e10))
SEED = int(os.environ.get("RANKBUS_TEST_SEED") or random.randrange(2**32))


class LongSoak(unittest.TestCase):
    # C-32, C-33, C-35
    def test_SixteenRanksKilledAtRandom_TotalsAreExactAndNothingGrows(self):
        print(f"seed {SEED}, {RECORDS} records; replay: RANKBUS_SOAK_RECORDS={RECORDS} RANKBUS_TEST_SEED={SEED}")
        print(soak.soak(RECORDS, SEED))


if __name__ == "__main__":
    lib.main()
