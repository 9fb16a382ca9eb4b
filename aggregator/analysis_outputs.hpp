// aggregator/analysis_outputs.hpp: every family that is made of samples, written once: for whoever
// exposes it, and for the reference page.
#pragma once

#include <rankbus/aggregator/snapshot.hpp>
#include <span>

namespace rankbus {

struct AnalysisOutput {
  const char* name;
  FamilyType type;
  const char* help;
  const char* labels;   // Besides those of the engine, between spaces.
  const char* streams;  // Whose samples it is made of, between spaces.
};

// Sorted by name. What only totals make is not here: it follows from the records' own fields.
std::span<const AnalysisOutput> analysis_outputs();
// Null if there is no such family.
const AnalysisOutput* find_analysis_output(const char* name);

}  // namespace rankbus
