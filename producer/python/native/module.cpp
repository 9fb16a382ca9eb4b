// The extension `rankbus._native`.
#include <cstdlib>
#include <rankbus/producer/python/native/handle.hpp>
#include <rankbus/producer/python/native/module.hpp>

namespace rankbus::python {
namespace {

// {name: (field, ...)} of the built-in types.
PyObject* record_types(PyObject*, PyObject*) {
  Reference all(PyDict_New());
  for (std::uint32_t t = 0; all && t < kBuiltInTypes; ++t) {
    const bus::RecordType& type = *built_in_tables()[t].type;
    const Reference fields(PyTuple_New(type.field_count));
    if (!fields) return nullptr;
    for (std::uint32_t i = 0; i < type.field_count; ++i) {
      PyObject* name = PyUnicode_FromString(type.fields[i].name);
      if (name == nullptr || PyTuple_SetItem(fields.get(), i, name) != 0) return nullptr;
    }
    if (PyDict_SetItemString(all.get(), type.name, fields.get()) != 0) return nullptr;
  }
  return all.release();
}

// The run that opening a producer put into the environment, where os.environ does not see it.
PyObject* run_id(PyObject*, PyObject*) {
  const char* text = std::getenv("RANKBUS_RUN_ID");
  return PyUnicode_DecodeFSDefault(text != nullptr ? text : "");
}

PyMethodDef functions[] = {
    {"record_types", record_types, METH_NOARGS, "Names and fields of the built-in record types."},
    {"run_id", run_id, METH_NOARGS, "RANKBUS_RUN_ID as the process has it."},
    {nullptr, nullptr, 0, nullptr}};

bool add_type(PyObject* module, PyType_Spec& spec, PyTypeObject*& out) {
  out = reinterpret_cast<PyTypeObject*>(PyType_FromModuleAndSpec(module, &spec, nullptr));
  return out != nullptr && PyModule_AddType(module, out) == 0;
}

int fill_module(PyObject* module) {
  auto& state = *static_cast<ModuleState*>(PyModule_GetState(module));
  built_in_tables();
  const bool ok = add_type(module, producer_spec, state.producer) &&
                  add_type(module, handle_spec, state.handle) &&
                  add_type(module, record_type_spec, state.record_type);
  return ok ? 0 : -1;
}

int visit_module(PyObject* module, visitproc visit, void* arg) {
  auto* state = static_cast<ModuleState*>(PyModule_GetState(module));
  if (state == nullptr) return 0;
  Py_VISIT(state->producer);
  Py_VISIT(state->handle);
  Py_VISIT(state->record_type);
  return 0;
}

int clear_module(PyObject* module) {
  auto* state = static_cast<ModuleState*>(PyModule_GetState(module));
  if (state == nullptr) return 0;
  Py_CLEAR(state->producer);
  Py_CLEAR(state->handle);
  Py_CLEAR(state->record_type);
  return 0;
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(fill_module)}, {0, nullptr}};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "rankbus._native", "The writing end of the bus, in C++.",
    sizeof(ModuleState),   functions,         slots,
    visit_module,          clear_module,      nullptr};

}  // namespace
}  // namespace rankbus::python

// NOLINTNEXTLINE(bugprone-reserved-identifier): the name that Python looks for.
PyMODINIT_FUNC PyInit__native() {
  return PyModuleDef_Init(&rankbus::python::definition);
}
