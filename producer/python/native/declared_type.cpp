#include <cstring>
#include <memory>
#include <new>
#include <rankbus/bus/segment.hpp>
#include <rankbus/producer/python/native/declared_type.hpp>

namespace rankbus::python {
namespace {

struct Word {
  const char* text;
  int value;
};
constexpr Word kKinds[] = {{"id", 1},    {"stamp", 2},        {"counter", 3}, {"running_total", 4},
                           {"gauge", 5}, {"distribution", 6}, {"label", 7},   {"info", 8}};
constexpr Word kTypes[] = {{"u8", 1}, {"u16", 2}, {"u32", 3}, {"u64", 4}, {"i64", 5}, {"f64", 6}};
constexpr Word kUnits[] = {
    {"none", 1}, {"seconds", 2}, {"nanoseconds", 3}, {"bytes", 4}, {"tokens", 5}};
constexpr Word kReductions[] = {{"sum", 1},    {"max", 2},    {"min", 3},   {"mean", 4},
                                {"leader", 5}, {"newest", 6}, {"merge", 7}, {"each", 8}};

// The value that a word stands for; with an exception that lists the words if it is none.
template <class Enum, std::size_t N>
bool find_word(const Word (&words)[N], const char* what, const char* text, Enum& out) {
  std::string known;
  for (const Word& word : words) {
    if (std::strcmp(word.text, text) == 0) {
      out = static_cast<Enum>(word.value);
      return true;
    }
    known += known.empty() ? "" : ", ";
    known += word.text;
  }
  PyErr_Format(PyExc_ValueError, "unknown %s '%s'; known: %s", what, text, known.c_str());
  return false;
}

}  // namespace

DeclaredType* DeclaredType::from(const char* name, const char* help, unsigned weight,
                                 PyObject* fields) try {
  auto made = std::make_unique<DeclaredType>();
  const Py_ssize_t count = PyList_Size(fields);
  if (count < 0) return nullptr;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!made->add_field(PyList_GetItem(fields, i))) return nullptr;
  }
  made->type_.name = made->keep(name);
  made->type_.help = made->keep(help);
  made->type_.fields = made->fields_.data();
  made->type_.field_count = static_cast<std::uint32_t>(made->fields_.size());
  made->type_.weight = weight;
  made->type_.tag = made.get();
  if (!made->judge()) return nullptr;
  made->make_table();
  return made.release();
} catch (const std::bad_alloc&) {
  PyErr_NoMemory();
  return nullptr;
}

// (name, kind, type, unit, reduction, capacity, metric, help, fixed label, fixed value, label
// fields that split it, domain, bounds or None for vLLM's series up to max_model_len, first and
// last power of two of the native bounds, indexed)
bool DeclaredType::add_field(PyObject* row) {
  const char *name, *kind, *type, *unit, *reduction, *metric, *help, *label, *value, *by, *domain;
  int capacity = 1;
  short native_first = 0, native_last = 0;
  PyObject* bounds = nullptr;
  int indexed = 0;
  if (!PyTuple_Check(row)) {
    PyErr_SetString(PyExc_TypeError, "a field is a tuple");
    return false;
  }
  if (!PyArg_ParseTuple(row, "sssssissssssOhhp", &name, &kind, &type, &unit, &reduction, &capacity,
                        &metric, &help, &label, &value, &by, &domain, &bounds, &native_first,
                        &native_last, &indexed)) {
    return false;
  }
  if (capacity < 1 || capacity > 0xffff) {
    PyErr_Format(PyExc_ValueError, "field %s: an array has room for 2 to 65535 elements", name);
    return false;
  }
  bus::FieldSpec spec;
  if (!find_word(kKinds, "kind", kind, spec.kind) || !find_word(kTypes, "type", type, spec.type) ||
      !find_word(kUnits, "unit", unit, spec.unit) ||
      !find_word(kReductions, "reduction", reduction, spec.reduction)) {
    return false;
  }
  spec.name = keep(name);
  spec.capacity = static_cast<std::uint16_t>(capacity);
  spec.metric = keep(metric);
  spec.help = keep(help);
  spec.fixed_label = keep(label);
  spec.fixed_value = keep(value);
  spec.by = keep(by);
  spec.domain = keep(domain);
  spec.indexed = indexed != 0;
  spec.bounds.native_first = native_first;
  spec.bounds.native_last = native_last;
  if (spec.kind == bus::Kind::distribution && !read_bounds(bounds, spec)) return false;
  fields_.push_back(spec);
  return true;
}

bool DeclaredType::read_bounds(PyObject* values, bus::FieldSpec& spec) {
  if (values == Py_None) {
    spec.bounds.model_length = true;
    return true;
  }
  std::vector<double>& all = bounds_.emplace_back();
  const Py_ssize_t count = PyTuple_Size(values);
  if (count < 0) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    all.push_back(PyFloat_AsDouble(PyTuple_GetItem(values, i)));
    if (all.back() == -1 && PyErr_Occurred() != nullptr) return false;
  }
  spec.bounds.values = all.data();
  spec.bounds.count = static_cast<std::uint32_t>(all.size());
  return true;
}

// Plans a stream of this type alone, as opening a producer will: whoever declares it reads the
// reason, and no producer is inert because of it later.
bool DeclaredType::judge() {
  bus::Arena arena;
  bus::Reason why;
  auto plan = std::make_unique<bus::SegmentPlan>();
  plan->types[0] = &type_;
  plan->stream_count = 1;
  bool ok = arena.reserve(std::size_t{4} << 20);
  if (!ok) why.set("record type %s: no memory to judge it", type_.name);
  if (ok && (type_.weight == 0 || type_.weight > 1000)) {
    why.set("record type %s: weight %u, expected 1 to 1000", type_.name, type_.weight);
    ok = false;
  }
  ok = ok && bus::plan_stream(*plan, 0, arena, why);
  if (ok && fields_[0].kind != bus::Kind::stamp) {
    why.set("record type %s: the first field of a record is its stamp", type_.name);
    ok = false;
  }
  if (ok && bus::encode_schema(*plan, nullptr, 0) > bus::kMaxSchemaBytes) {
    why.set("record type %s: its schema needs more than %u bytes", type_.name,
            bus::kMaxSchemaBytes);
    ok = false;
  }
  arena.release();
  if (!ok) PyErr_SetString(PyExc_ValueError, why.text);
  return ok;
}

// Values that a record leaves out count nothing; ids and labels are 0 then.
void DeclaredType::make_table() {
  prototype_.resize(fields_.size());
  table_.type = &type_;
  table_.prototype = prototype_.data();
  table_.record_bytes = prototype_.size() * sizeof(FieldInput);
  std::uint8_t labels = 0;
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    FieldSetter& setter = table_.fields[i];
    describe_setter(setter, fields_[i], labels);
    const bool array = fields_[i].capacity > 1;
    setter.bytes = array ? 0 : sizeof(std::uint64_t);
    setter.offset =
        static_cast<std::uint32_t>(i * sizeof(FieldInput) + (array ? offsetof(FieldInput, elements)
                                                                   : offsetof(FieldInput, raw)));
    if (bus::totals_row_words(fields_[i].kind, 0) == 0) prototype_[i].raw = 0;
  }
  table_.write = [](Producer& producer, const RecordTable& table, const void* record) noexcept {
    record_dynamic(producer, *table.type, static_cast<const FieldInput*>(record));
  };
}

namespace {

PyObject* new_record_type(PyTypeObject* type, PyObject* arguments, PyObject*) {
  const char* name = nullptr;
  const char* help = nullptr;
  unsigned weight = 1;
  PyObject* fields = nullptr;
  if (!PyArg_ParseTuple(arguments, "ssIO", &name, &help, &weight, &fields)) return nullptr;
  DeclaredType* declared = DeclaredType::from(name, help, weight, fields);
  if (declared == nullptr) return nullptr;
  const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  PyObject* made = allocate(type, 0);
  if (made == nullptr) {
    delete declared;
    return nullptr;
  }
  reinterpret_cast<RecordTypeObject*>(made)->declared = declared;
  return made;
}

void free_record_type(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<RecordTypeObject*>(self)->declared;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(new_record_type)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(free_record_type)},
                       {Py_tp_doc, const_cast<char*>("A judged record type of a Python class.")},
                       {0, nullptr}};

}  // namespace

PyType_Spec record_type_spec = {"rankbus._native.RecordType", sizeof(RecordTypeObject), 0,
                                Py_TPFLAGS_DEFAULT, slots};

}  // namespace rankbus::python
