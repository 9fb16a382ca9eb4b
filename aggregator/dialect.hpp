// aggregator/dialect.hpp: under which names the families of a snapshot are shown.
//
// A dialect is data: rules, each of which shows the series of one family under another name or with
// other labels. Records bear vLLM's names, so vLLM's dialect is nearly empty; SGLang's shows its
// core metrics out of the same records; a file of the user's may show anything else. Dialects never
// compute: what a rule makes equal adds up, like any reduction.
#pragma once

#include <map>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus {

struct DialectOptions {
  std::string names = "vllm";  // A built-in dialect's name, or the path of a JSON file.
  bool deprecated = false;     // Also show what the dialect keeps for old dashboards.
  bool per_peer = false;       // Keep the `peer` label of KV transfers.
};

struct DialectRule {
  std::string family;             // Shown as.
  std::string from;               // Family of the records.
  std::string help;               // Empty: the source's.
  Labels where;                   // Only series with these labels.
  std::vector<std::string> drop;  // Labels left out.
  std::map<std::string, std::string> rename;
  Labels set;  // Labels added.
};

class Dialect {
 public:
  // A built-in dialect or a file. Errors name the file, the rule and what is wrong with it.
  static Result<Dialect> load(const DialectOptions& options);

  // Shows a snapshot's families, sorted by name, in this dialect.
  void apply(std::vector<Family>& families) const;

 private:
  // One set of rules; the next one sees what it shows.
  struct Layer {
    std::vector<std::string> hidden;  // Prefixes of families that no rule shows.
    std::vector<DialectRule> rules;

    bool hides(const std::string& family) const;
    void apply(std::vector<Family>& families) const;
  };
  static Result<Layer> parse(std::string_view text, const std::string& where, bool deprecated);

  std::vector<Layer> layers_;
};

}  // namespace rankbus
