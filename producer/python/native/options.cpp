#include <rankbus/producer/python/native/options.hpp>
#include <rankbus/producer/python/native/values.hpp>

namespace rankbus::python {
namespace {

class OptionReader {
 public:
  explicit OptionReader(PyObject* given) : given_(given) {}
  bool ok() const { return PyErr_Occurred() == nullptr; }

  // Null where the option is absent or None.
  PyObject* get(const char* name) const {
    PyObject* value = given_ != nullptr ? PyDict_GetItemString(given_, name) : nullptr;
    return value == Py_None ? nullptr : value;
  }
  void text(const char* name, std::string& out) const {
    PyObject* value = ok() ? get(name) : nullptr;
    if (value == nullptr) return;
    const char* bytes = PyUnicode_AsUTF8AndSize(value, nullptr);
    if (bytes != nullptr) {
      out = bytes;
    } else {
      PyErr_Clear();
      PyErr_Format(PyExc_TypeError, "%s: expected a text", name);
    }
  }
  template <class T>
  void number(const char* name, T& out) const {
    PyObject* value = ok() ? get(name) : nullptr;
    if (value != nullptr) to_number(name, value, out);
  }
  template <class T>
  static bool to_number(const char* name, PyObject* value, T& out) {
    bus::FieldSpec spec;
    spec.type = sizeof(T) == 4 ? bus::Type::u32 : bus::Type::u64;
    std::uint64_t raw = 0;
    const Fault fault = integer_of(value, spec, raw);
    out = static_cast<T>(raw);
    if (fault == Fault::none) return true;
    if (fault != Fault::interrupted) {
      PyErr_Format(PyExc_ValueError, "%s: expected an integer from 0 to %llu", name,
                   static_cast<unsigned long long>(range_of(spec).most));
    }
    return false;
  }
  template <class Enum, std::size_t N>
  void word(const char* name, const char* const (&words)[N], const Enum (&values)[N],
            Enum& out) const {
    std::string given;
    text(name, given);
    if (!ok() || given.empty()) return;
    std::string known;
    for (std::size_t i = 0; i < N; ++i) {
      if (given == words[i]) {
        out = values[i];
        return;
      }
      known += i == 0 ? "" : ", ";
      known += words[i];
    }
    PyErr_Format(PyExc_ValueError, "%s: unknown '%s'; known: %s", name, given.c_str(),
                 known.c_str());
  }

 private:
  PyObject* given_;
};

bool read_axes(const OptionReader& reader, OwnedOptions& owned) {
  PyObject* axes = reader.get("axes");
  if (axes == nullptr) return true;
  const Reference list(PySequence_List(axes));
  if (!list) return false;
  const Py_ssize_t count = PyList_Size(list.get());
  if (count > static_cast<Py_ssize_t>(bus::kMaxAxes)) {
    PyErr_Format(PyExc_ValueError, "axes: %zd, expected at most %u", count, bus::kMaxAxes);
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    const Reference axis(PySequence_Tuple(PyList_GetItem(list.get(), i)));
    const char* name = nullptr;
    PyObject *rank = nullptr, *size = nullptr;
    Axis& out = owned.options.axes[i];
    if (!axis ||
        !PyArg_ParseTuple(axis.get(), "sOO;an axis is (name, rank, size)", &name, &rank, &size) ||
        !OptionReader::to_number("axes", rank, out.rank) ||
        !OptionReader::to_number("axes", size, out.size)) {
      return false;
    }
    owned.axis_names[i] = name;
    out.name = owned.axis_names[i].c_str();
  }
  return true;
}

}  // namespace

bool read_options(PyObject* given, ProducerState& state) {
  const OptionReader reader(given);
  OwnedOptions& owned = state.owned;
  OpenOptions& options = owned.options;
  reader.text("bus", owned.bus);
  reader.text("server", owned.server);
  reader.text("run_id", owned.run_id);
  reader.text("model", owned.model);
  reader.text("gpu", owned.gpu);
  options.bus = owned.bus.c_str();
  options.server = owned.server.c_str();
  options.run_id = owned.run_id.c_str();
  options.model = owned.model.c_str();
  options.gpu = owned.gpu.c_str();
  reader.number("engine", options.engine);
  reader.number("rank", options.rank);
  reader.number("world_size", options.world_size);
  reader.number("local_rank", options.local_rank);
  reader.number("local_world_size", options.local_world_size);
  reader.number("max_model_len", options.max_model_len);
  reader.number("num_speculative_tokens", options.num_speculative_tokens);
  reader.number("clock_start_ns", options.clock_start_ns);
  reader.number("segment_bytes", options.segment_bytes);
  reader.word("role", {"scheduler", "frontend", "worker", "other"},
              {Role::scheduler, Role::frontend, Role::worker, Role::other}, options.role);
  reader.word("kv_role", {"none", "prefill", "decode", "both"},
              {KvRole::none, KvRole::prefill, KvRole::decode, KvRole::both}, options.kv_role);
  reader.word("clock", {"real", "virtual"}, {ClockDomain::real, ClockDomain::virtual_time},
              options.clock);
  if (PyObject* strict = reader.ok() ? reader.get("strict") : nullptr)
    state.strict = PyObject_IsTrue(strict) == 1;
  return reader.ok() && read_axes(reader, owned);
}

}  // namespace rankbus::python
