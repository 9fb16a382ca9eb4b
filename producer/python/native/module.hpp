// producer/python/native/module.hpp: what the types of this extension know of each other.
#pragma once

#include <rankbus/producer/python/native/python.hpp>

namespace rankbus::python {

struct ModuleState {
  PyTypeObject* producer;
  PyTypeObject* handle;
  PyTypeObject* record_type;
};

}  // namespace rankbus::python
