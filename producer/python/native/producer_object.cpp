#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <rankbus/producer/python/native/handle.hpp>
#include <rankbus/producer/python/native/module.hpp>
#include <rankbus/producer/python/native/options.hpp>
#include <rankbus/producer/python/native/refusal.hpp>

namespace rankbus::python {

const RecordTable* ProducerState::table(const char* name) const {
  for (const RecordTable* each : tables) {
    if (std::strcmp(each->type->name, name) == 0) return each;
  }
  return nullptr;
}

namespace {

ProducerState& state_of(PyObject* self) {
  return *reinterpret_cast<ProducerObject*>(self)->state;
}

// A name of a built-in type, or the RecordType of a declared one. A type that the role brings may
// be named again.
bool add_record(PyObject* record, PyTypeObject* record_type, ProducerState& state) {
  const RecordTable* table = nullptr;
  const char* name = nullptr;
  if (Py_IS_TYPE(record, record_type)) {
    table = &reinterpret_cast<RecordTypeObject*>(record)->declared->table();
    name = table->type->name;
    state.kept.push_back(Reference::borrowed(record));
  } else {
    name = PyUnicode_AsUTF8AndSize(record, nullptr);
    if (name == nullptr) return false;
    table = built_in_table(name);
    if (table == nullptr) {
      PyErr_Format(PyExc_ValueError,
                   "no built-in record type '%s'; rankbus.record_types() lists them", name);
      return false;
    }
  }
  if (const RecordTable* other = state.table(name)) {
    if (other == table) return true;
    PyErr_Format(PyExc_ValueError, "two record types are named '%s'", name);
    return false;
  }
  for (const bus::RecordType*& free : state.owned.options.records) {
    if (free != nullptr) continue;
    free = table->type;
    state.tables.push_back(table);
    return true;
  }
  PyErr_Format(PyExc_ValueError, "more than %zu record types besides those of the role",
               std::size(state.owned.options.records));
  return false;
}

bool read_records(PyObject* records, PyTypeObject* record_type, ProducerState& state) {
  const bus::RecordType* of_role[kMaxTypesOfRole];
  const std::uint32_t count = list_types_of_role(state.owned.options.role, of_role);
  for (std::uint32_t i = 0; i < count; ++i)
    state.tables.push_back(built_in_table(of_role[i]->name));
  const Reference list(PySequence_List(records));
  if (!list) return false;
  for (Py_ssize_t i = 0; i < PyList_Size(list.get()); ++i) {
    if (!add_record(PyList_GetItem(list.get(), i), record_type, state)) return false;
  }
  return true;
}

PyObject* new_producer(PyTypeObject* type, PyObject* arguments, PyObject* keywords) try {
  PyObject* records = nullptr;
  if (!PyArg_ParseTuple(arguments, "O", &records)) return nullptr;
  const auto* module = static_cast<ModuleState*>(PyType_GetModuleState(type));
  if (module == nullptr) return nullptr;
  auto state = std::make_unique<ProducerState>();
  if (!read_options(keywords, *state) || !read_records(records, module->record_type, *state))
    return nullptr;
  state->open();
  const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  PyObject* made = allocate(type, 0);
  if (made != nullptr) reinterpret_cast<ProducerObject*>(made)->state = state.release();
  return made;
} catch (const std::bad_alloc&) {
  return PyErr_NoMemory();
}

void free_producer(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<ProducerObject*>(self)->state;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyObject* handle(PyObject* self, PyObject* name) {
  ProducerState& state = state_of(self);
  const char* text = PyUnicode_AsUTF8AndSize(name, nullptr);
  if (text == nullptr) return nullptr;
  const RecordTable* table = state.table(text);
  if (table == nullptr) {
    PyErr_SetObject(PyExc_KeyError, name);
    return nullptr;
  }
  const auto* module = static_cast<ModuleState*>(PyType_GetModuleState(Py_TYPE(self)));
  return module != nullptr ? make_handle(module->handle, self, state, *table) : nullptr;
}

PyObject* close(PyObject* self, PyObject*) {
  state_of(self).producer.close();
  Py_RETURN_NONE;
}

// Closes first: while the old one lives, the new one would get another lane.
PyObject* reopen(PyObject* self, PyObject*) {
  ProducerState& state = state_of(self);
  state.producer.close();
  state.dropped += state.producer.dropped_records();
  state.open();
  Py_RETURN_NONE;
}

PyObject* now(PyObject* self, PyObject*) {
  return PyLong_FromUnsignedLongLong(state_of(self).producer.now());
}

PyObject* status(PyObject* self, PyObject* const* values, Py_ssize_t count) {
  ProducerState& state = state_of(self);
  constexpr bus::Type kTypes[] = {bus::Type::u32, bus::Type::u8, bus::Type::u16, bus::Type::u8};
  std::uint64_t raw[4] = {};
  bool ok = count == 4;
  for (Py_ssize_t i = 0; ok && i < count; ++i) {
    bus::FieldSpec spec;
    spec.type = kTypes[i];
    const Fault fault = integer_of(values[i], spec, raw[i]);
    if (fault == Fault::interrupted) return nullptr;
    ok = fault == Fault::none;
  }
  if (ok) {
    state.producer.status(static_cast<std::uint32_t>(raw[0]), static_cast<std::uint8_t>(raw[1]),
                          static_cast<std::uint16_t>(raw[2]), static_cast<std::uint8_t>(raw[3]));
  } else if (!refuse(state, PyExc_ValueError,
                     Reference(PyUnicode_FromString("status: expected step (32 bits), group (8), "
                                                    "ordinal (16) and phase (8), all integers")))) {
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* get_inert(PyObject* self, void*) {
  return PyBool_FromLong(state_of(self).producer.inert() ? 1 : 0);
}
// Lossily, because a path in it may be no UTF-8.
PyObject* get_reason(PyObject* self, void*) {
  const char* text = state_of(self).producer.reason();
  return PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(std::strlen(text)), "replace");
}
PyObject* get_dropped(PyObject* self, void*) {
  const ProducerState& state = state_of(self);
  return PyLong_FromUnsignedLongLong(state.dropped + state.producer.dropped_records());
}
PyObject* get_errors(PyObject* self, void*) {
  return PyLong_FromUnsignedLongLong(state_of(self).errors);
}
PyObject* get_last_error(PyObject* self, void*) {
  PyObject* last = state_of(self).last_error.get();
  return last != nullptr ? Reference::borrowed(last).release() : PyUnicode_FromString("");
}
PyObject* get_segment_name(PyObject* self, void*) {
  return PyUnicode_FromString(state_of(self).producer.segment_name());
}
PyObject* get_lane(PyObject* self, void*) {
  return PyLong_FromUnsignedLong(state_of(self).producer.lane());
}
PyObject* get_ticks_per_second(PyObject* self, void*) {
  return PyLong_FromUnsignedLongLong(state_of(self).producer.ticks_per_second());
}
PyObject* get_record_names(PyObject* self, void*) {
  const ProducerState& state = state_of(self);
  Reference names(PyTuple_New(static_cast<Py_ssize_t>(state.tables.size())));
  for (std::size_t i = 0; names && i < state.tables.size(); ++i) {
    PyObject* name = PyUnicode_FromString(state.tables[i]->type->name);
    if (name == nullptr || PyTuple_SetItem(names.get(), static_cast<Py_ssize_t>(i), name) != 0)
      return nullptr;
  }
  return names.release();
}

PyMethodDef methods[] = {
    {"handle", handle, METH_O, "The callable that writes records of a declared type."},
    {"close", close, METH_NOARGS, "Ends the segment in order."},
    {"reopen", reopen, METH_NOARGS, "Opens another segment with the same options."},
    {"now", now, METH_NOARGS, "Ticks of the segment's clock."},
    {"status", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(status)), METH_FASTCALL,
     "Says where this process is: step, group, ordinal, phase."},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef getters[] = {{"inert", get_inert, nullptr, nullptr, nullptr},
                         {"reason", get_reason, nullptr, nullptr, nullptr},
                         {"dropped", get_dropped, nullptr, nullptr, nullptr},
                         {"errors", get_errors, nullptr, nullptr, nullptr},
                         {"last_error", get_last_error, nullptr, nullptr, nullptr},
                         {"segment_name", get_segment_name, nullptr, nullptr, nullptr},
                         {"lane", get_lane, nullptr, nullptr, nullptr},
                         {"ticks_per_second", get_ticks_per_second, nullptr, nullptr, nullptr},
                         {"record_names", get_record_names, nullptr, nullptr, nullptr},
                         {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(new_producer)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(free_producer)},
                       {Py_tp_methods, methods},
                       {Py_tp_getset, getters},
                       {Py_tp_doc, const_cast<char*>("The writing end of one segment.")},
                       {0, nullptr}};

}  // namespace

PyType_Spec producer_spec = {"rankbus._native.Producer", sizeof(ProducerObject), 0,
                             Py_TPFLAGS_DEFAULT, slots};

}  // namespace rankbus::python
