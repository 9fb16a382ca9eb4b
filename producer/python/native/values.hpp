// producer/python/native/values.hpp: what callers pass, as the bits that a field stores.
//
// Anything may come: numbers of Python and numpy, sequences that change while they are read,
// objects whose methods raise. A value that does not fit gives a Fault, never an exception, except
// for those that must not be swallowed (KeyboardInterrupt and the like): Fault::interrupted, with
// the exception set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/schema.hpp>
#include <rankbus/producer/python/native/python.hpp>

namespace rankbus::python {

enum class Fault : std::uint8_t {
  none,
  not_a_number,
  not_whole,     // A fraction for an integer field.
  out_of_range,  // An integer that the field's type cannot hold.
  not_a_label,
  unknown_label,    // No value of the label's domain.
  dictionary_full,  // The text has no number and is recorded as `other`.
  not_elements,
  not_info,
  too_long,  // An info text was cut.
  no_memory,
  interrupted,
};

// Integers that a field can hold; the largest one of a field with totals means absence.
struct Range {
  std::int64_t least = 0;
  std::uint64_t most = 0;
};
Range range_of(const bus::FieldSpec& spec);

Fault integer_of(PyObject* value, const bus::FieldSpec& spec, std::uint64_t& raw) noexcept;
Fault real_of(PyObject* value, double& real) noexcept;

// Growing memory for elements, kept between calls.
struct Elements {
  void* data = nullptr;
  std::size_t capacity = 0;
  Py_ssize_t faulty = 0;  // The element that the latest Fault is about, from 1; 0: none.

  bool reserve(std::size_t count) noexcept;
  void release() noexcept;
};

// Elements of a list, a tuple, anything with tolist(), or anything that iterates, as doubles or
// 64-bit integers by the field's type.
Fault elements_of(PyObject* value, const bus::FieldSpec& spec, Elements& out,
                  std::size_t& count) noexcept;

// A dict of texts as the words of an info field. With Fault::too_long the words that fit are there.
Fault info_of(PyObject* value, Elements& out, std::size_t& count) noexcept;

// The bytes of a text without NUL, valid as long as the text; null with a Fault otherwise.
const char* text_of(PyObject* value, Fault& fault) noexcept;

// Clears an exception that a value's own code raised.
Fault swallow(Fault meaning) noexcept;

}  // namespace rankbus::python
