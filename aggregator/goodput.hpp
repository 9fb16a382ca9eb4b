// aggregator/goodput.hpp: which finished requests met the limits that somebody promised.
//
// Goodput is what counts of throughput: requests that met every limit (Zhong et al., DistServe,
// OSDI 2024). A request's times are known only one by one, so this is fed from samples; what was
// lost is in `rankbus_samples_lost_total` of the stream finished_request.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <rankbus/aggregator/segment_reader.hpp>

namespace rankbus {

// Limits in seconds; none: not promised.
struct SloLimits {
  std::optional<double> ttft_s;
  std::optional<double> inter_token_s;
  std::optional<double> end_to_end_s;

  bool any() const { return ttft_s || inter_token_s || end_to_end_s; }
};

struct Goodput {
  std::uint64_t met = 0;
  std::uint64_t missed = 0;
  std::uint64_t unknown = 0;    // Missed none, and did not tell all that was promised.
  std::uint64_t estimated = 0;  // Judged by the estimate of the time to first token.
  // By the limit that was missed; a request may miss several. Requests that ended by abort or error
  // missed what they were for.
  std::uint64_t missed_ttft = 0;           // As the engine measured it.
  std::uint64_t missed_ttft_estimate = 0;  // By the time in the queue and in prefill.
  std::uint64_t missed_inter_token = 0;
  std::uint64_t missed_end_to_end = 0;
  std::uint64_t failed = 0;

  double ratio() const {
    const double judged = static_cast<double>(met) + static_cast<double>(missed);
    return judged == 0 ? 0 : static_cast<double>(met) / judged;
  }
  void aggregate(const Goodput& other) {
    for (const auto field : counts()) add_saturating(this->*field, other.*field);
  }
  bool is_empty() const { return met == 0 && missed == 0 && unknown == 0; }
  ReducedStats reduce() const {
    return {{"met", met}, {"missed", missed}, {"unknown", unknown}, {"ratio", ratio()}};
  }
  void reset() { *this = {}; }
  bool operator==(const Goodput&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    for (const auto field : counts()) archive(this->*field);
  }

 private:
  static constexpr std::array<std::uint64_t Goodput::*, 9> counts() {
    return {&Goodput::met,
            &Goodput::missed,
            &Goodput::unknown,
            &Goodput::estimated,
            &Goodput::missed_ttft,
            &Goodput::missed_ttft_estimate,
            &Goodput::missed_inter_token,
            &Goodput::missed_end_to_end,
            &Goodput::failed};
  }
};

static_assert(Accumulates<Goodput>);

// Judges the records of one stream `finished_request`. Where a record has no time to first token,
// as vLLM's, the time in the queue and in prefill stands in for it, and a miss by it is told apart.
class GoodputJudge {
 public:
  explicit GoodputJudge(const StreamSchema& stream);
  void judge(const Sample& sample, const SloLimits& limits, Goodput& into) const;

 private:
  std::optional<double> seconds(const Sample& sample, int field) const;
  bool has_failed(const Sample& sample) const;
  int first_token_ = -1, queued_ = -1, prefill_ = -1, per_token_ = -1, end_to_end_ = -1;
  int reason_ = -1, tokens_ = -1;
};

}  // namespace rankbus
