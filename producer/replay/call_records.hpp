// producer/replay/call_records.hpp: one recorded call as records, by the rules of vLLM's loggers.
#pragma once

#include <deque>
#include <rankbus/producer/producer.hpp>
#include <rankbus/producer/replay/calls_file.hpp>
#include <rankbus/producer/replay/connector_payload.hpp>
#include <set>
#include <string>
#include <vector>

namespace rankbus::replay {

// Record types by their names, which are also the names of features.
using Features = std::set<std::string>;

// The features that a header names: record types, `connector:` left out or not, or what vLLM calls
// them. Names that are neither go to `unknown`.
Features features_of(const std::vector<std::string>& names, std::vector<std::string>& unknown);

class CallRecords {
 public:
  // Takes a call apart. Throws BadLine where a field is of the wrong kind.
  CallRecords(const Call& call, const CallsHeader& header, const Features& configured);
  CallRecords(const CallRecords&) = delete;
  CallRecords& operator=(const CallRecords&) = delete;

  // The record types beyond a front end's own that this call needs.
  Features features() const;
  std::uint64_t unknown_connectors() const { return connectors_.unknown; }

  // Writes everything with this stamp. What the producer does not declare is not written.
  void write(Producer& producer, std::uint64_t stamp);

 private:
  void take_scheduler(const Json& in, bool is_moriio);
  void take_spec_decoding(const Json& in, bool is_diffusion);
  void take_iteration(const Json& in);
  void take_finished(const Json& in);
  void take_adapters(const Json& in, const std::string& max_lora);
  void write_connectors(Producer& producer, std::uint64_t stamp);
  void write_offloading(Producer& producer, std::uint64_t stamp);

  // Records hold views of lists; the lists stay where they are.
  const std::vector<double>& keep(std::vector<double> values) {
    return reals_.emplace_back(std::move(values));
  }
  const std::vector<std::uint64_t>& keep(std::vector<std::uint64_t> values) {
    return wholes_.emplace_back(std::move(values));
  }

  std::deque<std::vector<double>> reals_;
  std::deque<std::vector<std::uint64_t>> wholes_;
  std::optional<SchedulerStep> step_;
  std::optional<IterationStats> iteration_;
  std::vector<FinishedRequest> finished_;
  std::optional<MultimodalCache> multimodal_;
  std::optional<SleepState> sleep_;
  std::uint64_t corrupted_ = 0;
  std::vector<KvBlockEviction> evictions_;
  std::optional<SpecDecoding> spec_;
  std::optional<DiffusionDecoding> diffusion_;
  std::optional<PerfStats> perf_;
  std::optional<CudaGraph> cuda_graph_;
  std::string cuda_graph_mode_;
  std::optional<IterationDetails> details_;
  std::optional<InfoText> adapters_;
  ConnectorRecords connectors_;
};

// The cache configuration as a record's text.
InfoText cache_config_text(const Json& config);

}  // namespace rankbus::replay
