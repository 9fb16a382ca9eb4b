#include <cstring>
#include <iterator>
#include <rankbus/producer/python/native/handle.hpp>
#include <rankbus/producer/python/native/refusal.hpp>

namespace rankbus::python {

namespace {

// Interned names are found by identity; others, which `**` of a made-up dict can bring, by content.
std::uint8_t field_named(const Handle& handle, PyObject* name) noexcept {
  const std::uint32_t count = handle.table->type->field_count;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (handle.names[i] == name) return static_cast<std::uint8_t>(i);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    if (PyUnicode_CompareWithASCIIString(name, handle.table->type->fields[i].name) == 0)
      return static_cast<std::uint8_t>(i);
  }
  return kNoField;
}

bool same_names(PyObject* a, PyObject* b, Py_ssize_t count) noexcept {
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (PyTuple_GetItem(a, i) != PyTuple_GetItem(b, i)) return false;
  }
  return true;
}

// Fills `fields` with what the names mean. A call with `**` brings a new tuple each time, whose
// names are those of another one: such a tuple is not worth a place of its own.
void fields_of_names(Handle& handle, PyObject* names, Py_ssize_t count,
                     std::uint8_t* fields) noexcept {
  for (const NameMap& map : handle.maps) {
    if (map.names == names) {
      std::memcpy(fields, map.fields, static_cast<std::size_t>(count));
      return;
    }
  }
  for (const NameMap& map : handle.maps) {
    if (map.names != nullptr && map.count == count && same_names(map.names, names, count)) {
      std::memcpy(fields, map.fields, static_cast<std::size_t>(count));
      return;
    }
  }
  NameMap& map = handle.maps[handle.next_map++ % std::size(handle.maps)];
  for (Py_ssize_t i = 0; i < count; ++i) {
    map.fields[i] = fields[i] = field_named(handle, PyTuple_GetItem(names, i));
  }
  Py_INCREF(names);
  Py_XDECREF(map.names);
  map.names = names;
  map.count = count;
}

Fault number_of_text(Handle& handle, unsigned field, PyObject* text, std::uint64_t& raw) noexcept {
  LabelNumbers& label = handle.labels[handle.table->fields[field].labels_before];
  if (text == label.last_text) {
    raw = label.last_number;
    return Fault::none;
  }
  PyObject* known = PyDict_GetItemWithError(label.numbers, text);
  Fault fault = Fault::none;
  if (known != nullptr) {
    raw = PyLong_AsUnsignedLongLong(known);
  } else {
    if (PyErr_Occurred() != nullptr) return swallow(Fault::not_a_label);
    if (handle.table->type->fields[field].domain[0] != '\0') return Fault::unknown_label;
    const char* bytes = text_of(text, fault);
    // An inert producer has no dictionary; only a strict one comes here with it.
    if (bytes == nullptr || handle.producer->producer.inert()) return fault;
    raw = handle.producer->producer.intern(bytes);
    if (raw == 0) return Fault::dictionary_full;
    const Reference number(PyLong_FromUnsignedLongLong(raw));
    if (!number || PyDict_SetItem(label.numbers, text, number.get()) != 0)
      return swallow(Fault::no_memory);
  }
  Py_INCREF(text);
  Py_XDECREF(label.last_text);
  label.last_text = text;
  label.last_number = static_cast<std::uint16_t>(raw);
  return Fault::none;
}

// Numbers of run-time texts belong to one segment's dictionary, those of a domain to the type.
bool fill_label_numbers(Handle& handle) noexcept {
  for (std::uint32_t i = 0; i < handle.table->type->field_count; ++i) {
    const bus::FieldSpec& spec = handle.table->type->fields[i];
    if (spec.kind != bus::Kind::label) continue;
    LabelNumbers& label = handle.labels[handle.table->fields[i].labels_before];
    Py_CLEAR(label.last_text);
    Reference numbers(PyDict_New());
    if (!numbers) return false;
    long number = 0;
    for (const char* at = spec.domain; *at != '\0';) {
      const std::size_t bytes = std::strcspn(at, "\n");
      const Reference text(PyUnicode_FromStringAndSize(at, static_cast<Py_ssize_t>(bytes)));
      const Reference value(PyLong_FromLong(++number));
      if (!text || !value || PyDict_SetItem(numbers.get(), text.get(), value.get()) != 0)
        return false;
      at += bytes;
      if (*at == '\n') ++at;
    }
    PyObject* old = label.numbers;
    label.numbers = numbers.release();
    Py_XDECREF(old);
  }
  handle.opened = handle.producer->opened;
  return true;
}

void store(unsigned char* at, std::uint64_t raw, std::uint8_t bytes) noexcept {
  switch (bytes) {
    case 1:
      std::memcpy(at, &raw, 1);
      return;
    case 2:
      std::memcpy(at, &raw, 2);
      return;
    case 4:
      std::memcpy(at, &raw, 4);
      return;
    default:
      std::memcpy(at, &raw, 8);
  }
}

constexpr std::size_t kKeptElements = 4096;

Fault set_field(Handle& handle, Scratch& scratch, unsigned field, PyObject* value) noexcept {
  const FieldSetter& setter = handle.table->fields[field];
  const bus::FieldSpec& spec = handle.table->type->fields[field];
  unsigned char* at = scratch.record + setter.offset;
  std::uint64_t raw = 0;
  Fault fault = Fault::none;
  switch (setter.takes) {
    case Takes::integer:
      fault = integer_of(value, spec, raw);
      break;
    case Takes::real: {
      double real = 0;
      fault = real_of(value, real);
      raw = bus::bits_of(real);
      break;
    }
    case Takes::label:
      fault = PyUnicode_CheckExact(value) || PyUnicode_Check(value)
                  ? number_of_text(handle, field, value, raw)
                  : integer_of(value, spec, raw);
      break;
    case Takes::integers:
    case Takes::reals:
    case Takes::info: {
      Elements& elements = scratch.arrays[field];
      std::size_t count = 0;
      fault = setter.takes == Takes::info ? info_of(value, elements, count)
                                          : elements_of(value, spec, elements, count);
      if (elements.capacity > kKeptElements) scratch.large = true;
      if (fault != Fault::none && fault != Fault::too_long) return fault;
      // All Values<> are a pointer and a size, whatever they view.
      const Values<std::uint64_t> view(static_cast<const std::uint64_t*>(elements.data), count);
      std::memcpy(at, &view, sizeof view);
      return fault;
    }
  }
  if (fault == Fault::none) store(at, raw, setter.bytes);
  return fault;
}

// What most calls pass most of the time: exact integers and floats in range. False: look closer.
bool set_plain(const FieldSetter& setter, unsigned char* record, PyObject* value) noexcept {
  if (setter.takes == Takes::real) {
    if (!PyFloat_CheckExact(value)) return false;
    const double real = PyFloat_AsDouble(value);
    std::memcpy(record + setter.offset, &real, sizeof real);
    return true;
  }
  if (setter.takes != Takes::integer || !PyLong_CheckExact(value)) return false;
  int overflow = 0;
  const long long whole = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0 || static_cast<std::uint64_t>(whole) > setter.plain) return false;
  store(record + setter.offset, static_cast<std::uint64_t>(whole), setter.bytes);
  return true;
}

// False with an exception set: strict, or one that must not be swallowed.
bool fill(Handle& handle, Scratch& scratch, PyObject* const* values, PyObject* names) noexcept {
  const Py_ssize_t count = PyTuple_Size(names);
  std::uint8_t fields[kMaxMappedNames];
  const bool mapped = count <= kMaxMappedNames;
  if (mapped) fields_of_names(handle, names, count, fields);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* value = values[i];
    if (value == Py_None) continue;
    const std::uint8_t field = mapped ? fields[i] : field_named(handle, PyTuple_GetItem(names, i));
    if (field == kNoField) {
      if (!refuse_name(*handle.producer, *handle.table->type, PyTuple_GetItem(names, i)))
        return false;
      continue;
    }
    if (set_plain(handle.table->fields[field], scratch.record, value)) continue;
    const Fault fault = set_field(handle, scratch, field, value);
    if (fault != Fault::none && !refuse_value(*handle.producer, *handle.table->type, field, fault,
                                              value, scratch.arrays[field].faulty))
      return false;
  }
  return true;
}

void free_scratch(Scratch* scratch) noexcept {
  if (scratch == nullptr) return;
  for (Elements& elements : scratch->arrays) elements.release();
  PyMem_Free(scratch);
}

Scratch* take_scratch(Handle& handle) noexcept {
  Scratch* scratch = handle.spare;
  handle.spare = nullptr;
  return scratch != nullptr ? scratch : static_cast<Scratch*>(PyMem_Calloc(1, sizeof(Scratch)));
}

// Memory for long arrays is not kept, so that one call of a million elements is not paid for ever.
void give_back(Handle& handle, Scratch* scratch) noexcept {
  if (handle.spare != nullptr || scratch->large) {
    free_scratch(scratch);
  } else {
    handle.spare = scratch;
  }
}

PyObject* call(PyObject* self, PyObject* const* values, Py_ssize_t positional, PyObject* names) {
  Handle& handle = *reinterpret_cast<Handle*>(self);
  ProducerState& producer = *handle.producer;
  if (producer.producer.inert() && !producer.strict) {
    ++producer.dropped;
    Py_RETURN_NONE;
  }
  if (handle.opened != producer.opened && !fill_label_numbers(handle)) return nullptr;
  Scratch* scratch = take_scratch(handle);
  if (scratch == nullptr) return PyErr_NoMemory();
  const RecordTable& table = *handle.table;
  std::memcpy(scratch->record, table.prototype, table.record_bytes);
  bool ok = true;
  if (positional > 0) {
    ok = refuse(
        producer, PyExc_TypeError,
        Reference(PyUnicode_FromFormat("record %s: fields are given by name", table.type->name)));
  }
  if (ok && names != nullptr) ok = fill(handle, *scratch, values + positional, names);
  if (ok) table.write(producer.producer, table, scratch->record);
  give_back(handle, scratch);
  if (!ok) return nullptr;
  Py_RETURN_NONE;
}

bool intern_names(Handle& handle) {
  const bus::RecordType& type = *handle.table->type;
  for (std::uint32_t i = 0; i < type.field_count; ++i) {
    handle.names[i] = PyUnicode_InternFromString(type.fields[i].name);
    if (handle.names[i] == nullptr) return false;
  }
  return true;
}

void free_handle(PyObject* self) {
  Handle& handle = *reinterpret_cast<Handle*>(self);
  PyTypeObject* type = Py_TYPE(self);
  free_scratch(handle.spare);
  for (PyObject* name : handle.names) Py_XDECREF(name);
  for (LabelNumbers& label : handle.labels) {
    Py_XDECREF(label.numbers);
    Py_XDECREF(label.last_text);
  }
  for (NameMap& map : handle.maps) Py_XDECREF(map.names);
  Py_XDECREF(handle.owner);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(free_handle)},
                       {Py_tp_doc, const_cast<char*>("Writes records of one type.")},
                       {0, nullptr}};

}  // namespace

PyType_Spec handle_spec = {"rankbus._native.Handle", sizeof(Handle), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

PyObject* make_handle(PyTypeObject* type, PyObject* owner, ProducerState& producer,
                      const RecordTable& table) {
  const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  const Reference made(allocate(type, 0));  // Zeroed.
  if (!made) return nullptr;
  Handle& handle = *reinterpret_cast<Handle*>(made.get());
  Py_INCREF(owner);
  handle.owner = owner;
  handle.producer = &producer;
  handle.table = &table;
  // The function's method definition lives in the handle, which the function keeps.
  handle.method = {table.type->name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call)),
                   METH_FASTCALL | METH_KEYWORDS, table.type->help};
  if (!intern_names(handle) || !fill_label_numbers(handle)) return nullptr;
  return PyCFunction_NewEx(&handle.method, made.get(), nullptr);
}

}  // namespace rankbus::python
