// aggregator/arrivals/straggler_test.hpp: whether one member comes late more often than chance
// explains, and whether it matters.
//
// Each step has one vote: the member whose lateness in it was critical for the longest time. Among
// even members each is as likely to get it as any other, whatever their noise looks like, so the
// votes of one member in n steps are binomial with chance 1/m. The verdict names a member when its
// votes in the window would be met by chance with a probability below `p_on`, m times that being
// the chance for any of them, and its critical time is at least `min_cost` of the window. It is
// taken back when the votes of the window could be chance (`p_off`), or when it costs less than
// half of that. A step in which nobody was the last on his own has no vote.
//
// The window is the last `window_ns` of the records' own time, or as much more as it takes to hold
// `min_votes`, up to kMaxSlots seconds.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

namespace rankbus {

// Probability of k or more successes in n independent trials of the given chance, k at most n.
double binomial_tail(std::uint64_t k, std::uint64_t n, double chance);

struct StragglerConfig {
  std::int64_t window_ns = 10'000'000'000;
  std::uint64_t min_votes = 64;
  double p_on = 1e-9;
  double p_off = 1e-3;
  double min_cost = 0.005;  // Critical time as a share of the window.
};

struct StragglerVerdict {
  std::uint32_t place = 0;
  std::int64_t since_ns = 0;      // The end of the window in which it was named first.
  std::uint64_t votes = 0;        // Of the window ...
  std::uint64_t steps = 0;        // ... and how many steps had one.
  double p_value = 1;             // By chance, for any member.
  std::uint64_t critical_ns = 0;  // What fixing this member would have saved in the window.
  std::int64_t window_ns = 0;

  double cost() const {
    return window_ns <= 0 ? 0 : static_cast<double>(critical_ns) / static_cast<double>(window_ns);
  }
};

class StragglerTest {
 public:
  static constexpr std::size_t kMaxSlots = 600;
  static constexpr std::int64_t kSlot_ns = 1'000'000'000;

  explicit StragglerTest(std::uint32_t places, const StragglerConfig& config = {});

  // One step that ended at `time_ns`, with the critical time of each member in it.
  void add(std::int64_t time_ns, std::span<const std::uint64_t> critical_ns);
  // Nothing, or the one member that holds everybody up.
  const std::optional<StragglerVerdict>& verdict() const { return verdict_; }
  // The group began anew, or its clock did.
  void reset();

 private:
  struct Slot {
    std::int64_t begin_ns = 0;
    std::uint64_t votes_of_all = 0;
    std::vector<std::uint64_t> votes;
    std::vector<std::uint64_t> critical_ns;
  };

  void open_slot(std::int64_t time_ns);
  void close_slot();
  void drop_oldest();
  void judge(std::int64_t now_ns);
  StragglerVerdict judged(std::uint32_t place, std::int64_t now_ns) const;

  std::uint32_t places_;
  StragglerConfig config_;
  std::deque<Slot> slots_;  // The last one is still open.
  // Of all slots but the open one.
  std::uint64_t votes_of_all_ = 0;
  std::vector<std::uint64_t> votes_;
  std::vector<std::uint64_t> critical_ns_;
  std::optional<StragglerVerdict> verdict_;
};

}  // namespace rankbus
