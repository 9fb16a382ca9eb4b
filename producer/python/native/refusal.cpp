#include <rankbus/bus/totals.hpp>
#include <rankbus/producer/python/native/refusal.hpp>
#include <string>

namespace rankbus::python {

bool refuse(ProducerState& producer, PyObject* error, Reference message) noexcept {
  if (!message) return swallow(Fault::no_memory) != Fault::interrupted;
  if (producer.strict) {
    PyErr_SetObject(error, message.get());
    return false;
  }
  ++producer.errors;
  producer.last_error = std::move(message);
  return true;
}

namespace {

// A value in words. Of numbers their own; of anything else only its type, because texts may come
// from clients, and because another type's own code could do anything.
Reference words_of(PyObject* value) noexcept {
  if (PyLong_CheckExact(value) || PyFloat_CheckExact(value) || PyBool_Check(value)) {
    Reference text(PyObject_Repr(value));
    if (text) return text;
    PyErr_Clear();  // An integer of more digits than Python prints.
  }
  const Reference name(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(value)), "__name__"));
  if (name && PyUnicode_Check(name.get()))
    return Reference(PyUnicode_FromFormat("a %U", name.get()));
  PyErr_Clear();
  return Reference(PyUnicode_FromString("something else"));
}

Reference expectation(Fault fault, const bus::FieldSpec& spec) noexcept {
  const char* text = "";
  switch (fault) {
    case Fault::not_a_number:
      text = "expected a number";
      break;
    case Fault::not_whole:
      text = "expected a whole number";
      break;
    case Fault::out_of_range: {
      const Range range = range_of(spec);
      const bool no_minus_one =
          spec.type == bus::Type::i64 && bus::totals_row_words(spec.kind, 0) > 0;
      return Reference(PyUnicode_FromFormat("expected an integer from %lld to %llu%s",
                                            static_cast<long long>(range.least),
                                            static_cast<unsigned long long>(range.most),
                                            no_minus_one ? ", but -1, which means absence" : ""));
    }
    case Fault::not_a_label:
      text = "expected a text without NUL, or its number";
      break;
    case Fault::unknown_label: {
      std::string known;
      for (const char* c = spec.domain; *c != '\0'; ++c)
        known += *c == '\n' ? ", " : std::string(1, *c);
      return Reference(PyUnicode_FromFormat("expected one of: %s", known.c_str()));
    }
    case Fault::dictionary_full:
      text = "counted as `other`: the segment's dictionary is full, or the text too long for it";
      break;
    case Fault::not_elements:
      text = "expected a list, a tuple or an array of numbers";
      break;
    case Fault::not_info:
      text = "expected a dict from label names to texts without NUL";
      break;
    case Fault::too_long:
      text = "what does not fit is left out";
      break;
    case Fault::no_memory:
      text = "no memory";
      break;
    case Fault::none:
    case Fault::interrupted:
      break;
  }
  return Reference(PyUnicode_FromString(text));
}

bool is_type_fault(Fault fault) {
  return fault == Fault::not_a_number || fault == Fault::not_elements || fault == Fault::not_info ||
         fault == Fault::not_a_label;
}

}  // namespace

bool refuse_value(ProducerState& producer, const bus::RecordType& type, unsigned field, Fault fault,
                  PyObject* value, Py_ssize_t element) noexcept {
  if (fault == Fault::interrupted) return false;
  const bus::FieldSpec& spec = type.fields[field];
  const Reference expected = expectation(fault, spec);
  // What stood at the place of an element may be gone.
  const Reference got =
      element == 0 ? words_of(value)
                   : Reference(PyUnicode_FromFormat("something else at index %zd", element - 1));
  Reference message;
  if (expected && got) {
    message = Reference(PyUnicode_FromFormat("record %s, field %s: %U; got %U", type.name,
                                             spec.name, expected.get(), got.get()));
  }
  return refuse(producer, is_type_fault(fault) ? PyExc_TypeError : PyExc_ValueError,
                std::move(message));
}

bool refuse_name(ProducerState& producer, const bus::RecordType& type, PyObject* name) noexcept {
  std::string known;
  for (std::uint32_t i = 0; i < type.field_count; ++i) {
    known += i == 0 ? "" : ", ";
    known += type.fields[i].name;
  }
  return refuse(producer, PyExc_TypeError,
                Reference(PyUnicode_FromFormat("record %s has no field %U; its fields: %s",
                                               type.name, name, known.c_str())));
}

}  // namespace rankbus::python
