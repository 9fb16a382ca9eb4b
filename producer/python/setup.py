"""Builds the extensions of the package from the checkout around it; everything else is in pyproject.toml.

`_native`, the producer, needs headers only. `_reader` compiles the aggregator's reading half too and needs Boost,
nlohmann-json and pybind11; where they are missing the package comes without `rankbus.snapshot`.
"""

import os
import pathlib

from setuptools import Extension, setup

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOT_READING = {"main.cpp", "daemon.cpp", "inspect.cpp", "describe.cpp", "command_line.cpp", "release.cpp", "sandbox.cpp"}

# Includes start with `rankbus/`, as they do in build/<type>/include. Sources are named through this tree too, because
# setuptools puts an object where its source lies, seen from here.
include = HERE / "build/include"
(include / "rankbus").mkdir(parents=True, exist_ok=True)
for folder in ("bus", "producer", "aggregator", "exporters", "producer/producer.hpp"):
    link = include / "rankbus" / pathlib.Path(folder).name
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT / folder)

# What CMake's configure_file does with the dialects.
dialects = (ROOT / "aggregator/dialects/dialects.hpp.in").read_text()
for name in ("vllm", "sglang"):
    text = (ROOT / f"aggregator/dialects/{name}.json").read_text()
    dialects = dialects.replace(f"@RANKBUS_DIALECT_{name.upper()}@", text)
(include / "rankbus_dialects.hpp").write_text(dialects)


def extension(name, sources, **more):
    return Extension(
        name,
        sorted(os.path.relpath(source, HERE) for source in sources),
        language="c++",
        include_dirs=[str(include)],
        extra_compile_args=["-std=c++20", "-O3", "-g0", "-fvisibility=hidden"],
        **more,
    )


linked = include / "rankbus"
reading = [path for path in (linked / "aggregator").glob("*.cpp") if path.name not in NOT_READING]
reading += (linked / "aggregator/analysis").glob("*.cpp")
reading += [HERE / "reader/reader.cpp", linked / "exporters/number_text.cpp", linked / "exporters/prometheus_text.cpp"]
setup(
    ext_modules=[
        extension(
            "rankbus._native",
            (HERE / "native").glob("*.cpp"),
            define_macros=[("Py_LIMITED_API", "0x030a0000")],
            py_limited_api=True,
        ),
        extension("rankbus._reader", reading, define_macros=[("RANKBUS_VERSION", '"0.1.0"')], optional=True),
    ]
)
