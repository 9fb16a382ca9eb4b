#include <cstring>
#include <limits>
#include <rankbus/bus/declaration.hpp>
#include <rankbus/bus/totals.hpp>
#include <rankbus/producer/python/native/values.hpp>
#include <rankbus/producer/record.hpp>

namespace rankbus::python {

Fault swallow(Fault meaning) noexcept {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) return Fault::interrupted;
  PyErr_Clear();
  return meaning;
}

Range range_of(const bus::FieldSpec& spec) {
  // Of a signed field absence is -1, which the range cannot leave out; see integer_of.
  if (spec.type == bus::Type::i64) {
    return {std::numeric_limits<std::int64_t>::min(),
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())};
  }
  const std::uint64_t all_ones = bus::kAbsentBits >> (64 - 8 * bus::type_bytes(spec.type));
  return {0, bus::totals_row_words(spec.kind, 0) > 0 ? all_ones - 1 : all_ones};
}

namespace {

Fault checked(std::int64_t value, const bus::FieldSpec& spec, std::uint64_t& raw) noexcept {
  const Range range = range_of(spec);
  if (value < range.least) return Fault::out_of_range;
  if (value >= 0 && static_cast<std::uint64_t>(value) > range.most) return Fault::out_of_range;
  raw = static_cast<std::uint64_t>(value);
  if (raw == bus::kAbsentBits && bus::totals_row_words(spec.kind, 0) > 0) {
    return Fault::out_of_range;
  }
  return Fault::none;
}

// Integers from 2^63 on, which only unsigned 64-bit fields hold.
Fault large_integer_of(PyObject* value, const bus::FieldSpec& spec, std::uint64_t& raw) noexcept {
  if (spec.type != bus::Type::u64) return Fault::out_of_range;
  const Reference whole(PyNumber_Index(value));
  if (!whole) return swallow(Fault::not_a_number);
  raw = PyLong_AsUnsignedLongLong(whole.get());
  if (raw == bus::kAbsentBits && PyErr_Occurred() != nullptr) return swallow(Fault::out_of_range);
  return raw > range_of(spec).most ? Fault::out_of_range : Fault::none;
}

Fault whole_of(double value, const bus::FieldSpec& spec, std::uint64_t& raw) noexcept {
  if (!(value >= -0x1p63 && value < 0x1p64)) return Fault::out_of_range;
  if (value >= 0x1p63) {
    raw = static_cast<std::uint64_t>(value);
    return spec.type == bus::Type::u64 && raw <= range_of(spec).most ? Fault::none
                                                                     : Fault::out_of_range;
  }
  const auto whole = static_cast<std::int64_t>(value);
  if (static_cast<double>(whole) != value) return Fault::not_whole;
  return checked(whole, spec, raw);
}

}  // namespace

Fault integer_of(PyObject* value, const bus::FieldSpec& spec, std::uint64_t& raw) noexcept {
  if (PyFloat_CheckExact(value)) return whole_of(PyFloat_AsDouble(value), spec, raw);
  int overflow = 0;
  const long long whole = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow > 0) return large_integer_of(value, spec, raw);
  if (overflow < 0) return Fault::out_of_range;
  if (whole == -1 && PyErr_Occurred() != nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) return swallow(Fault::not_a_number);
    PyErr_Clear();
    // A number without __index__, for example numpy.float32.
    double real = 0;
    const Fault fault = real_of(value, real);
    return fault == Fault::none ? whole_of(real, spec, raw) : fault;
  }
  return checked(whole, spec, raw);
}

Fault real_of(PyObject* value, double& real) noexcept {
  real = PyFloat_AsDouble(value);
  return real == -1 && PyErr_Occurred() != nullptr ? swallow(Fault::not_a_number) : Fault::none;
}

bool Elements::reserve(std::size_t count) noexcept {
  if (count <= capacity) return true;
  void* grown = PyMem_Realloc(data, count * sizeof(std::uint64_t));
  if (grown == nullptr) return false;
  data = grown;
  capacity = count;
  return true;
}

void Elements::release() noexcept {
  PyMem_Free(data);
  data = nullptr;
  capacity = 0;
}

namespace {

// `get` borrows; items are held while their own code runs, because that may empty the sequence.
template <class Size, class Get>
Fault copy_items(PyObject* items, Size size, Get get, const bus::FieldSpec& spec, Elements& out,
                 std::size_t& count) noexcept {
  const Py_ssize_t length = size(items);
  if (!out.reserve(static_cast<std::size_t>(length))) return Fault::no_memory;
  const bool real = spec.type == bus::Type::f64;
  for (Py_ssize_t i = 0; i < length; ++i) {
    PyObject* item = get(items, i);
    if (item == nullptr) return swallow(Fault::not_elements);  // It has become shorter.
    Fault fault = Fault::none;
    if (real && PyFloat_CheckExact(item)) {
      static_cast<double*>(out.data)[i] = PyFloat_AsDouble(item);
    } else {
      const Reference held = Reference::borrowed(item);
      fault = real ? real_of(item, static_cast<double*>(out.data)[i])
                   : integer_of(item, spec, static_cast<std::uint64_t*>(out.data)[i]);
    }
    if (fault != Fault::none) {
      out.faulty = i + 1;
      return fault;
    }
  }
  count = static_cast<std::size_t>(length);
  return Fault::none;
}

}  // namespace

Fault elements_of(PyObject* value, const bus::FieldSpec& spec, Elements& out,
                  std::size_t& count) noexcept {
  out.faulty = 0;
  if (PyList_CheckExact(value))
    return copy_items(value, PyList_Size, PyList_GetItem, spec, out, count);
  if (PyTuple_CheckExact(value))
    return copy_items(value, PyTuple_Size, PyTuple_GetItem, spec, out, count);
  if (PyUnicode_Check(value) || PyBytes_Check(value) || PyDict_Check(value))
    return Fault::not_elements;
  Reference list(PyObject_HasAttrString(value, "tolist") != 0
                     ? PyObject_CallMethod(value, "tolist", nullptr)
                     : PySequence_List(value));
  if (!list) return swallow(Fault::not_elements);
  if (!PyList_CheckExact(list.get())) return Fault::not_elements;
  return copy_items(list.get(), PyList_Size, PyList_GetItem, spec, out, count);
}

const char* text_of(PyObject* value, Fault& fault) noexcept {
  Py_ssize_t bytes = 0;
  const char* text = PyUnicode_AsUTF8AndSize(value, &bytes);
  if (text == nullptr) {
    fault = swallow(Fault::not_a_label);
    return nullptr;
  }
  if (std::memchr(text, '\0', static_cast<std::size_t>(bytes)) != nullptr) {
    fault = Fault::not_a_label;
    return nullptr;
  }
  return text;
}

Fault info_of(PyObject* value, Elements& out, std::size_t& count) noexcept {
  if (!PyDict_Check(value)) return Fault::not_info;
  InfoText text;
  PyObject* key = nullptr;
  PyObject* item = nullptr;
  Py_ssize_t at = 0;
  while (PyDict_Next(value, &at, &key, &item) != 0) {
    if (!PyUnicode_Check(key) || !PyUnicode_Check(item)) return Fault::not_info;
    Fault fault = Fault::none;
    const char* label = text_of(key, fault);
    const char* words = label != nullptr ? text_of(item, fault) : nullptr;
    if (words == nullptr) return fault == Fault::interrupted ? fault : Fault::not_info;
    if (!bus::is_label_name(label, std::strlen(label))) return Fault::not_info;
    text.add(label, words);
  }
  const Values<std::uint64_t> all = text.words();
  if (!out.reserve(all.size)) return Fault::no_memory;
  if (all.size > 0) std::memcpy(out.data, all.data, all.size * sizeof(std::uint64_t));
  count = all.size;
  return text.is_cut() ? Fault::too_long : Fault::none;
}

}  // namespace rankbus::python
