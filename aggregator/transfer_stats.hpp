// aggregator/transfer_stats.hpp: the transfers that NIXL, MoRI-IO and Mooncake report.
#pragma once

#include <cstdint>
#include <optional>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/observations.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <string>

namespace rankbus {
namespace transfer_detail {

inline constexpr double kBytesPerMb = 1 << 20;

// Successful transfers, which NIXL, MoRI-IO and Mooncake report alike.
class Transfers {
 public:
  // Returns whether it counted: a duration that is no number is no transfer.
  bool add(double duration_s, std::uint64_t bytes, std::uint64_t descriptors) {
    if (!durations_s_.add(duration_s)) return false;
    add_saturating(bytes_, bytes);
    add_saturating(descriptors_, descriptors);
    return true;
  }
  void aggregate(const Transfers& other) {
    durations_s_.aggregate(other.durations_s_);
    add_saturating(bytes_, other.bytes_);
    add_saturating(descriptors_, other.descriptors_);
  }
  std::uint64_t count() const { return durations_s_.count(); }

  void reduce_count(ReducedStats& out) const {
    out.emplace_back("Num successful transfers", count());
  }
  void reduce_durations(ReducedStats& out) const { reduce_times("xfer", durations_s_, out); }

  // Throughput is over the sum of durations, not wall time, as in vLLM: side by side, transfers do
  // not add up. vLLM divides by 0 for NIXL; here that is 0 as for the others.
  void reduce_sizes(ReducedStats& out) const {
    const auto n = static_cast<double>(count());
    const double mb = static_cast<double>(bytes_) / kBytesPerMb;
    const double total_s = durations_s_.numpy_sum();
    const bool is_empty = count() == 0;
    out.emplace_back("Avg MB per transfer", is_empty ? kZero : round_as_numpy(mb / n, 3));
    out.emplace_back("Throughput (MB/s)", total_s > 0 ? round_as_numpy(mb / total_s, 3) : kZero);
    out.emplace_back("Avg number of descriptors",
                     is_empty ? kZero : round_as_numpy(static_cast<double>(descriptors_) / n, 1));
  }

  // NumPy rounds the mean and Python the percentile, because vLLM asks them so.
  static void reduce_times(const std::string& what, const Observations& times_s,
                           ReducedStats& out) {
    const bool is_empty = times_s.is_empty();
    out.emplace_back("Avg " + what + " time (ms)",
                     is_empty ? kZero : round_as_numpy(times_s.numpy_mean() * 1e3, 3));
    out.emplace_back(
        "P90 " + what + " time (ms)",
        is_empty ? kZero : round_as_python(times_s.interpolated_percentile(0.9) * 1e3, 3));
  }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(durations_s_, bytes_, descriptors_);
  }

 private:
  // vLLM writes a bare 0 where there was nothing, and 0.0 where a value came out as zero.
  inline static const Number kZero = std::uint64_t{0};

  Observations durations_s_;
  std::uint64_t bytes_ = 0;
  std::uint64_t descriptors_ = 0;
};

}  // namespace transfer_detail

// The transfers of NIXL, and of MoRI-IO, which reports the same.
template <class Connector>
class PostedTransferStats {
 public:
  void add_transfer(double duration_s, std::optional<double> post_s, std::uint64_t bytes,
                    std::uint64_t descriptors) {
    if (transfers_.add(duration_s, bytes, descriptors) && post_s) posts_s_.add(*post_s);
  }
  // Only Prometheus shows how many; the log shows by its zeros that something happened.
  void add_failed_transfers(std::uint64_t n) { add_saturating(failed_transfers_, n); }
  void add_failed_notifications(std::uint64_t n) { add_saturating(failed_notifications_, n); }
  void add_expired_requests(std::uint64_t n) { add_saturating(expired_requests_, n); }

  void aggregate(const PostedTransferStats& other) {
    transfers_.aggregate(other.transfers_);
    posts_s_.aggregate(other.posts_s_);
    add_failed_transfers(other.failed_transfers_);
    add_failed_notifications(other.failed_notifications_);
    add_expired_requests(other.expired_requests_);
  }
  bool is_empty() const {
    return transfers_.count() == 0 && failed_transfers_ == 0 && failed_notifications_ == 0 &&
           expired_requests_ == 0;
  }
  ReducedStats reduce() const {
    ReducedStats out;
    transfers_.reduce_count(out);
    transfers_.reduce_durations(out);
    transfer_detail::Transfers::reduce_times("post", posts_s_, out);
    transfers_.reduce_sizes(out);
    return out;
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(transfers_, posts_s_, failed_transfers_, failed_notifications_, expired_requests_);
  }

 private:
  transfer_detail::Transfers transfers_;
  Observations posts_s_;
  std::uint64_t failed_transfers_ = 0;
  std::uint64_t failed_notifications_ = 0;
  std::uint64_t expired_requests_ = 0;
};
using NixlStats = PostedTransferStats<struct Nixl>;
using MoriioStats = PostedTransferStats<struct Moriio>;

class MooncakeTransferStats {
 public:
  void add_transfer(double duration_s, std::uint64_t bytes, std::uint64_t descriptors) {
    transfers_.add(duration_s, bytes, descriptors);
  }
  void add_failed_transfers(std::uint64_t n) { add_saturating(failed_transfers_, n); }
  void add_failed_receives(std::uint64_t n) { add_saturating(failed_receives_, n); }
  void add_expired_requests(std::uint64_t n) { add_saturating(expired_requests_, n); }

  void aggregate(const MooncakeTransferStats& other) {
    transfers_.aggregate(other.transfers_);
    add_failed_transfers(other.failed_transfers_);
    add_failed_receives(other.failed_receives_);
    add_expired_requests(other.expired_requests_);
  }
  bool is_empty() const {
    return transfers_.count() == 0 && failed_transfers_ == 0 && failed_receives_ == 0 &&
           expired_requests_ == 0;
  }
  ReducedStats reduce() const {
    ReducedStats out;
    transfers_.reduce_count(out);
    transfers_.reduce_durations(out);
    transfers_.reduce_sizes(out);
    out.emplace_back("Num failed transfers", failed_transfers_);
    out.emplace_back("Num failed recvs", failed_receives_);
    out.emplace_back("Num KV expired reqs", expired_requests_);
    return out;
  }
  void reset() { *this = {}; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(transfers_, failed_transfers_, failed_receives_, expired_requests_);
  }

 private:
  transfer_detail::Transfers transfers_;
  std::uint64_t failed_transfers_ = 0;
  std::uint64_t failed_receives_ = 0;
  std::uint64_t expired_requests_ = 0;
};

static_assert(Accumulates<NixlStats> && Accumulates<MoriioStats>);
static_assert(Accumulates<MooncakeTransferStats>);

}  // namespace rankbus
