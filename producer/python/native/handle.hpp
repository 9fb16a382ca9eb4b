// producer/python/native/handle.hpp: the callable that writes records of one type.
//
// What Python calls is a built-in function whose `self` is a Handle: the fastest call that the
// limited API of 3.10 has. The names of a call's keywords are one constant tuple for each place in
// the caller's code, so that which fields they mean is looked up once for each such place.
#pragma once

#include <rankbus/producer/python/native/producer_object.hpp>
#include <rankbus/producer/python/native/values.hpp>

namespace rankbus::python {

inline constexpr std::uint8_t kNoField = 0xff;
inline constexpr Py_ssize_t kMaxMappedNames = 96;

// The fields that a tuple of keyword names means.
struct NameMap {
  PyObject* names = nullptr;  // Held, so that no other tuple gets its address.
  Py_ssize_t count = 0;
  std::uint8_t fields[kMaxMappedNames] = {};
};

// The numbers of a label field's texts.
struct LabelNumbers {
  PyObject* numbers = nullptr;    // dict
  PyObject* last_text = nullptr;  // The text that came last, and its number.
  std::uint16_t last_number = 0;
};

// Memory of one call. A call inside a call (a value's own code may do anything) gets another one.
struct Scratch {
  alignas(16) unsigned char record[kMaxRecordBytes];
  Elements arrays[bus::kMaxFieldsPerStream];
  bool large;  // An array has grown beyond what is kept.
};

struct Handle {
  PyObject_HEAD PyObject* owner;  // The ProducerObject, held.
  ProducerState* producer;
  const RecordTable* table;
  PyObject* names[bus::kMaxFieldsPerStream];  // Interned.
  LabelNumbers labels[bus::kMaxLabelFieldsPerStream];
  std::uint64_t opened;  // The producer's, when `labels` was filled.
  NameMap maps[8];
  unsigned next_map;
  Scratch* spare;
  PyMethodDef method;
};
extern PyType_Spec handle_spec;

// A new handle's callable.
PyObject* make_handle(PyTypeObject* type, PyObject* owner, ProducerState& producer,
                      const RecordTable& table);

}  // namespace rankbus::python
