// producer/python/native/declared_type.hpp: a record type that a Python class declares.
//
// Holds what RecordType only points to, so it must live as long as any producer opened with it.
#pragma once

#include <deque>
#include <rankbus/producer/python/native/python.hpp>
#include <rankbus/producer/python/native/record_table.hpp>
#include <string>
#include <vector>

namespace rankbus::python {

class DeclaredType {
 public:
  // `fields` is a list of tuples, see field_of in declared_type.cpp. Null with an exception set
  // when the declaration is no valid one; its text is the reason that bus/ gives.
  static DeclaredType* from(const char* name, const char* help, unsigned weight, PyObject* fields);

  const RecordTable& table() const { return table_; }

 private:
  bool add_field(PyObject* row);
  bool read_bounds(PyObject* values, bus::FieldSpec& spec);
  bool judge();
  void make_table();
  const char* keep(const char* text) { return texts_.emplace_back(text).c_str(); }

  std::deque<std::string> texts_;  // Do not move as more come.
  std::deque<std::vector<double>> bounds_;
  std::vector<bus::FieldSpec> fields_;
  std::vector<FieldInput> prototype_;
  bus::RecordType type_;
  RecordTable table_;
};

// The Python type `rankbus._native.RecordType`.
struct RecordTypeObject {
  PyObject_HEAD DeclaredType* declared;
};
extern PyType_Spec record_type_spec;

}  // namespace rankbus::python
