# Labels: release-only
"""Goal:   `pip install ./producer/python` works offline and gives everything: the producer for each Python from 3.10
        on, the reader for this one, types, entry points for vLLM.
Method: a copy of the sources installed into a folder of its own, then used by this Python and by every other one found.
Replay: ctest --test-dir build/release -R long_python_install -V
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import lib

SOURCES = ("bus", "producer", "aggregator", "exporters")

PRODUCE = """
import json, rankbus, sys
with rankbus.Producer(role="frontend", model="m", bus=sys.argv[1], strict=True) as producer:
    handle = producer.handle("finished_request")
    for _ in range(1000):
        handle(finished_reason="stop", num_prompt_tokens=5, e2e_latency_seconds=0.5)
    print(json.dumps([rankbus.__file__, producer.segment_name]))
"""

READ = """
import json, rankbus, sys
print(json.dumps({m.name: m.value for m in rankbus.snapshot(sys.argv[1]) if isinstance(m, rankbus.Counter)
                  and m.labels.get("finished_reason") == "stop"}))
"""


def other_pythons():
    """Pythons on the PATH from 3.10 on that run, this one not among them."""
    for minor in range(10, 20):
        found = shutil.which(f"python3.{minor}")
        if found and minor != sys.version_info.minor:
            if subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
                yield found


class Installation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="rankbus-install-")))
        for source in SOURCES:
            ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "*.so")
            shutil.copytree(lib.ROOT / source, folder / "checkout" / source, ignore=ignored)
        cls.target = folder / "installed"
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps"]
        command += ["--target", cls.target, folder / "checkout/producer/python"]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert installed.returncode == 0, installed.stdout + installed.stderr

    def python(self, executable, code, *arguments):
        environment = lib.clean_environment({"PYTHONPATH": str(self.target), "PYTHONDONTWRITEBYTECODE": "1"})
        done = subprocess.run(
            [executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        self.assertEqual(done.returncode, 0, f"{executable}: {done.stderr}")
        return json.loads(done.stdout)

    def test_Installed_ProducesWithEveryPython_AndReadsWithThisOne(self):
        pythons = [sys.executable, *other_pythons()]
        print(f"Pythons: {pythons}")
        with lib.temporary_bus() as bus:
            for executable in pythons:
                where, segment = self.python(executable, PRODUCE, bus)
                self.assertTrue(where.startswith(str(self.target)), where)
                self.assertTrue(os.path.exists(f"{bus}/{segment}"))
            found = self.python(sys.executable, READ, bus)
        self.assertEqual(found, {"vllm:request_success": 1000 * len(pythons)})

    def test_Wheel_IsForEveryPythonFrom310_TypedAndAnnouncedToVllm(self):
        (information,) = self.target.glob("rankbus-*.dist-info")
        self.assertIn("Tag: cp310-abi3-linux", (information / "WHEEL").read_text())
        self.assertTrue((self.target / "rankbus/_native.abi3.so").exists())
        self.assertTrue((self.target / "rankbus/py.typed").exists())
        self.assertTrue((self.target / "rankbus/_native.pyi").exists())
        entries = (information / "entry_points.txt").read_text()
        self.assertIn("[vllm.stat_logger_plugins]\nrankbus = rankbus.vllm:StatLogger", entries)
        self.assertIn("[vllm.general_plugins]\nrankbus = rankbus.vllm:register", entries)


if __name__ == "__main__":
    lib.main()
