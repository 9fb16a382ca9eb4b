// producer/python/native/refusal.hpp: what becomes of a value or a name that does not fit.
//
// It is counted and said in `last_error`, or raised if the producer is strict. All functions return
// false when an exception is set, and the record must not be written.
#pragma once

#include <rankbus/producer/python/native/producer_object.hpp>
#include <rankbus/producer/python/native/values.hpp>

namespace rankbus::python {

bool refuse(ProducerState& producer, PyObject* error, Reference message) noexcept;

// `element` of an array, from 1; 0: the value itself.
bool refuse_value(ProducerState& producer, const bus::RecordType& type, unsigned field, Fault fault,
                  PyObject* value, Py_ssize_t element) noexcept;

bool refuse_name(ProducerState& producer, const bus::RecordType& type, PyObject* name) noexcept;

}  // namespace rankbus::python
