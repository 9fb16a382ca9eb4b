// producer/replay/call_truth.hpp: what /metrics must say after a file of calls, counted a second
// time.
//
// From the calls' JSON alone, by the public description of vLLM's metrics. It shares nothing with
// the records, the bus or the aggregator: where the two counts differ, one of them is wrong. Keep
// it that way.
#pragma once

#include <map>
#include <rankbus/producer/replay/calls_file.hpp>
#include <set>
#include <string>
#include <vector>

namespace rankbus::replay {

class CallTruth {
 public:
  // `features` are names of record types, as `rankbus describe` prints them.
  CallTruth(const CallsHeader& header, const std::vector<std::uint32_t>& engines,
            const std::set<std::string>& features, const std::string& server);

  void observe(const Call& call);

  // The truth file's text.
  std::string json() const;

 private:
  using Labels = std::map<std::string, std::string>;
  struct Histogram {
    std::vector<double> bounds;
    std::vector<std::uint64_t> counts;  // One more than bounds.
    double sum = 0;
  };

  Labels base(std::uint32_t engine) const;
  void declare_engine(std::uint32_t engine);
  void declare_feature(std::uint32_t engine, const std::string& feature);
  void count(const std::string& name, const Labels& labels, double amount);
  void set(const std::string& name, const Labels& labels, double value);
  void observe_value(const std::string& name, const Labels& labels, double value);
  void observe_values(const std::string& name, const Labels& labels,
                      const std::vector<double>& values);
  void histogram(const std::string& name, const Labels& labels, std::vector<double> bounds);

  void observe_scheduler(const Json& in, const Labels& engine);
  void observe_iteration(const Json& in, const Labels& engine);
  void observe_finished(const Json& in, const Labels& engine);
  void observe_connector(const Json& payload, const Labels& engine, bool is_moriio);
  void observe_transfers(const Json& payload, const std::string& prefix, const Labels& engine);
  void observe_offloading(const Json& payload, const Labels& engine);
  void observe_offloading_metric(std::string name, const Json& value, const Labels& engine);
  void observe_store(const Json& payload, const Labels& engine);

  static std::string series(const std::string& name, const Labels& labels);

  CallsHeader header_;
  std::vector<std::uint32_t> engines_;
  std::string server_;
  std::set<std::string> features_;
  // 64 bits of mantissa: estimated operations soon exceed those of a double.
  std::map<std::string, long double> counters_;
  std::map<std::string, double> gauges_;
  std::map<std::pair<std::string, Labels>, Histogram> histograms_;
  std::map<std::uint32_t, std::string> adapters_;  // Present LoRA series, by engine.
};

}  // namespace rankbus::replay
