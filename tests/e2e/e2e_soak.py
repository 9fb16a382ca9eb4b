# Labels: release-only
"""Goal:   what long_soak shows for hours holds for seconds: while 16 ranks and the aggregator are killed and started
        again at random, no counter goes back, the last totals are exact, and nothing grows.
Method: see soak.py; 10^8 records.
Replay: RANKBUS_TEST_SEED=<printed> ctest --test-dir build/release -R e2e_soak -V
"""

import os
import random
import unittest

import lib
import soak

SEED = int(os.environ.get("RANKBUS_TEST_SEED") or random.randrange(2**32))


class Soak(unittest.TestCase):
    # C-32, C-33, C-35
    def test_SixteenRanksKilledAtRandom_TotalsAreExactAndNothingGrows(self):
        print(f"seed {SEED}; replay: RANKBUS_TEST_SEED={SEED}")
        print(soak.soak(10_000_000, SEED))


if __name__ == "__main__":
    lib.main()
