// producer/python/native/producer_object.hpp: one producer as Python sees it.
#pragma once

#include <rankbus/producer/python/native/declared_type.hpp>
#include <rankbus/producer/python/native/python.hpp>
#include <rankbus/producer/python/native/record_table.hpp>
#include <string>
#include <vector>

namespace rankbus::python {

// Options that own their texts, because `reopen` needs them again.
struct OwnedOptions {
  OpenOptions options;
  std::string bus, server, run_id, model, gpu;
  std::string axis_names[bus::kMaxAxes];
};

struct ProducerState {
  OwnedOptions owned;
  std::vector<const RecordTable*> tables;  // Those of the role first.
  std::vector<Reference> kept;             // The Python objects of declared types.
  Producer producer;
  bool strict = false;
  std::uint64_t opened = 0;   // Goes up with each open: numbers of label texts belong to one.
  std::uint64_t dropped = 0;  // Records that earlier producers, or this object, dropped.
  std::uint64_t errors = 0;
  Reference last_error;  // Text, or nothing.

  void open() {
    ++opened;
    producer = Producer::open(owned.options);
  }
  const RecordTable* table(const char* name) const;
};

struct ProducerObject {
  PyObject_HEAD ProducerState* state;
};
extern PyType_Spec producer_spec;

}  // namespace rankbus::python
