#include <algorithm>
#include <cmath>
#include <rankbus/aggregator/arrivals/straggler_test.hpp>

namespace rankbus {

// The terms of the sum are taken from k on, each from the one before; they fall at least as fast as
// a geometric series once they are beyond the mean.
double binomial_tail(std::uint64_t k, std::uint64_t n, double chance) {
  if (k == 0) return 1;
  const auto successes = static_cast<double>(k);
  const auto trials = static_cast<double>(n);
  const double log_first = std::lgamma(trials + 1) - std::lgamma(successes + 1) -
                           std::lgamma(trials - successes + 1) + successes * std::log(chance) +
                           (trials - successes) * std::log1p(-chance);
  const double odds = chance / (1 - chance);
  double term = 1, sum = 1;
  for (std::uint64_t i = k; i < n; ++i) {
    term *= static_cast<double>(n - i) / static_cast<double>(i + 1) * odds;
    sum += term;
    const bool is_falling = static_cast<double>(i + 1) > trials * chance;
    if (is_falling && term < sum * 1e-17) break;
  }
  return std::min(1.0, std::exp(log_first + std::log(sum)));
}

StragglerTest::StragglerTest(std::uint32_t places, const StragglerConfig& config)
    : places_(places), config_(config), votes_(places), critical_ns_(places) {}

void StragglerTest::reset() {
  *this = StragglerTest(places_, config_);
}

void StragglerTest::add(std::int64_t time_ns, std::span<const std::uint64_t> critical_ns) {
  if (slots_.empty()) open_slot(time_ns);
  if (time_ns - slots_.back().begin_ns >= kSlot_ns) {
    close_slot();
    judge(time_ns);
    open_slot(time_ns);
  }
  Slot& slot = slots_.back();
  std::size_t worst = 0;
  bool is_alone = false;
  for (std::size_t place = 0; place < places_; ++place) {
    slot.critical_ns[place] += critical_ns[place];
    if (critical_ns[place] > critical_ns[worst]) worst = place;
  }
  is_alone = critical_ns[worst] > 0 &&
             std::count(critical_ns.begin(), critical_ns.end(), critical_ns[worst]) == 1;
  if (!is_alone) return;
  ++slot.votes[worst];
  ++slot.votes_of_all;
}

void StragglerTest::open_slot(std::int64_t time_ns) {
  slots_.push_back(
      {time_ns, 0, std::vector<std::uint64_t>(places_), std::vector<std::uint64_t>(places_)});
}

void StragglerTest::close_slot() {
  const Slot& slot = slots_.back();
  votes_of_all_ += slot.votes_of_all;
  for (std::size_t place = 0; place < places_; ++place) {
    votes_[place] += slot.votes[place];
    critical_ns_[place] += slot.critical_ns[place];
  }
}

void StragglerTest::drop_oldest() {
  const Slot& slot = slots_.front();
  votes_of_all_ -= slot.votes_of_all;
  for (std::size_t place = 0; place < places_; ++place) {
    votes_[place] -= slot.votes[place];
    critical_ns_[place] -= slot.critical_ns[place];
  }
  slots_.pop_front();
}

void StragglerTest::judge(std::int64_t now_ns) {
  // What is left must still be a whole window with votes enough.
  while (slots_.size() > 1 &&
         (slots_.size() >= kMaxSlots ||
          (now_ns - slots_[1].begin_ns >= config_.window_ns &&
           votes_of_all_ - slots_.front().votes_of_all >= config_.min_votes))) {
    drop_oldest();
  }
  if (places_ < 2 || now_ns - slots_.front().begin_ns < config_.window_ns) return;
  if (verdict_) {
    StragglerVerdict held = judged(verdict_->place, now_ns);
    held.since_ns = verdict_->since_ns;
    if (held.p_value <= config_.p_off && held.cost() >= config_.min_cost / 2) {
      verdict_ = held;
      return;
    }
    verdict_.reset();
  }
  const auto most = std::max_element(votes_.begin(), votes_.end());
  const StragglerVerdict found = judged(static_cast<std::uint32_t>(most - votes_.begin()), now_ns);
  if (found.p_value < config_.p_on * places_ && found.cost() >= config_.min_cost) verdict_ = found;
}

StragglerVerdict StragglerTest::judged(std::uint32_t place, std::int64_t now_ns) const {
  StragglerVerdict verdict;
  verdict.place = place;
  verdict.since_ns = now_ns;
  verdict.votes = votes_[place];
  verdict.steps = votes_of_all_;
  verdict.critical_ns = critical_ns_[place];
  verdict.window_ns = now_ns - slots_.front().begin_ns;
  const double chance = 1.0 / places_;
  verdict.p_value = std::min(1.0, places_ * binomial_tail(verdict.votes, verdict.steps, chance));
  return verdict;
}

}  // namespace rankbus
