"""For tests that look at the plug-ins from within: this process finds the package and the stand-in for vLLM, and
nothing of it reaches anybody's bus. Import it before anything of rankbus."""

import os
import sys

import drivers

if drivers.is_built():
    sys.path.insert(0, str(drivers.PACKAGE))
    os.environ["RANKBUS_BUS"] = "/proc/no-bus-here"
    os.environ["RANKBUS_QUIET"] = "1"


class KeepingProducer:
    """Stands for rankbus.Producer: keeps options and records."""

    made = []
    inert, reason, errors = False, "", 0

    def __init__(self, **options):
        self.options, self.records, self.ticks = options, [], 0
        KeepingProducer.made.append(self)

    def handle(self, name):
        return lambda **fields: self.records.append((name, fields))

    def reopen(self):
        pass

    def close(self):
        pass

    def now(self):
        self.ticks += 1
        return self.ticks
