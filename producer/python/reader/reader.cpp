// The extension `rankbus._reader`: one look at a bus by the aggregator's own reading and reduction,
// so that Python sees the numbers that `/metrics` would show.
#include <pybind11/pybind11.h>

#include <rankbus/aggregator/aggregator.hpp>
#include <rankbus/exporters/number_text.hpp>
#include <string>

namespace py = pybind11;

namespace rankbus {
namespace {

// Label texts are what producers wrote, and need not be UTF-8.
py::str text_of_untrusted(const std::string& text) {
  PyObject* made =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

py::object number_of(const Number& number) {
  return std::visit([](auto value) -> py::object { return py::cast(value); }, number);
}

// (count, sum, {le: cumulative count}), as the exposition has it.
py::tuple histogram_of(const Histogram& histogram) {
  py::dict buckets;
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
    count += histogram.counts[i];
    std::string le;
    if (i < histogram.bounds->size()) {
      append_le((*histogram.bounds)[i], le);
    } else {
      le = "+Inf";
    }
    buckets[py::str(le)] = count;
  }
  return py::make_tuple(count, histogram.sum, buckets);
}

const char* kind_of(FamilyType type) {
  return type == FamilyType::counter     ? "counter"
         : type == FamilyType::histogram ? "histogram"
                                         : "gauge";
}

// [(name as exposed, kind, labels, value), ...], families by name and series by labels.
py::list read(const std::string& directory, const std::string& names) {
  Result<Snapshot> snapshot = Error{""};
  {
    const py::gil_scoped_release others_may_run;
    DialectOptions dialect_options;
    dialect_options.names = names;
    auto dialect = Dialect::load(dialect_options);
    if (!dialect) {
      snapshot = Error{dialect.error()};
    } else {
      snapshot = read_bus_once({directory, true}, {}, [](const std::string&) {});
      if (snapshot) dialect.value().apply(snapshot->families);
    }
  }
  if (!snapshot) {
    PyErr_SetString(PyExc_OSError, snapshot.error().c_str());
    throw py::error_already_set();
  }
  py::list series_list;
  for (const Family& family : snapshot->families) {
    for (const Series& series : family.series) {
      py::dict labels;
      for (const auto& [name, value] : series.labels)
        labels[py::str(name)] = text_of_untrusted(value);
      const auto* histogram = std::get_if<Histogram>(&series.value);
      const py::object value = histogram != nullptr ? py::object(histogram_of(*histogram))
                                                    : number_of(std::get<Number>(series.value));
      series_list.append(py::make_tuple(family.name, kind_of(family.type), labels, value));
    }
  }
  return series_list;
}

}  // namespace
}  // namespace rankbus

// NOLINTNEXTLINE(bugprone-reserved-identifier): the name that Python looks for.
PYBIND11_MODULE(_reader, module) {
  module.doc() = "Reads a bus once, without owning it.";
  module.def("read", &rankbus::read, py::arg("bus"), py::arg("names") = "vllm");
}
