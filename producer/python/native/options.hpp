// producer/python/native/options.hpp: the keywords of a new producer.
//
// Everything is checked here, because a wrong option is a mistake of whoever writes the program,
// and an absent bus is none.
#pragma once

#include <rankbus/producer/python/native/producer_object.hpp>

namespace rankbus::python {

// `given` is the dict of keywords, or null. False with an exception set.
bool read_options(PyObject* given, ProducerState& state);

}  // namespace rankbus::python
