// The part of BusReader that keeps the number of identities bounded: engines that are not shown any
// more are put aside, old identities of an engine become one, and what is very old is forgotten.
#include <algorithm>
#include <rankbus/aggregator/bus_reader.hpp>

namespace rankbus {
namespace {

using Dead = std::pair<double, Identity>;  // By when it was alive last.

// Sums of an engine contain what is folded; series of one rank, which nobody shows by then, end.
void fold(const IdentityState& from, IdentityState& into) {
  for (const auto& [key, value] : from.retired.values) {
    if (value.reduction == bus::Reduction::each) continue;
    const auto [at, fresh] = into.retired.values.emplace(key, value);
    if (!fresh && !add_value(at->second, value)) at->second = value;
  }
  into.retired.incarnations += from.retired.incarnations;
  const bool began_earlier =
      into.began_ns == 0 || (from.began_ns != 0 && from.began_ns < into.began_ns);
  if (began_earlier) {
    into.began_ns = from.began_ns;
    into.began_ticks = from.began_ticks;
  }
  if (into.began_realtime_s == 0 || from.began_realtime_s < into.began_realtime_s)
    into.began_realtime_s = from.began_realtime_s;
  if (from.last_alive_s >= into.last_alive_s) {
    into.last_stamp = from.last_stamp;
    into.last_source = from.last_source;
    into.last_active_s = from.last_active_s;
  }
  into.last_alive_s = std::max(into.last_alive_s, from.last_alive_s);
}

}  // namespace

void BusReader::tidy_identities(double now_s) {
  if (!ledger_) return;
  const LedgerOptions& options = ledger_->options();
  std::set<Identity> held;  // By a living or unread incarnation.
  for (const auto& [name, segment] : live_) held.insert(segment.who);
  for (const auto& [name, left] : unread_) held.insert(left->who);
  struct Engine {
    double last_alive_s = 0;
    bool is_held = false;
    std::vector<Dead> dead;
  };
  std::map<Identity, Engine> engines;
  for (const auto& [who, state] : identities_) {
    Engine& engine = engines[who.whole_engine()];
    engine.last_alive_s = std::max(engine.last_alive_s, state.last_alive_s);
    if (held.count(who) != 0) {
      engine.is_held = true;
    } else if (!who.is_whole_engine()) {
      engine.dead.emplace_back(state.last_alive_s, who);
    }
  }
  const std::uint64_t changes_before = changes_;
  for (auto& [total, engine] : engines) {
    if (engine.dead.size() <= options.most_dead_per_engine) continue;
    std::sort(engine.dead.begin(), engine.dead.end());
    const std::size_t excess = engine.dead.size() - options.most_dead_per_engine;
    for (std::size_t i = 0; i < excess; ++i) {
      auto old = identities_.extract(engine.dead[i].second);
      fold(old.mapped(), identities_[total]);
      touched_.insert({old.key(), total});
    }
    ++changes_;
  }
  for (auto at = identities_.begin(); at != identities_.end();) {
    const auto next = std::next(at);
    const Engine& engine = engines[at->first.whole_engine()];
    const bool is_shown = engine.is_held || now_s - engine.last_alive_s <= options.retain_s;
    if (!is_shown) past_.insert(identities_.extract(at));
    at = next;
  }
  std::set<Identity> forgotten;  // Whole engines.
  for (auto at = past_.begin(); at != past_.end();) {
    const bool is_old = now_s - at->second.last_alive_s > options.forget_after_s;
    if (is_old) {
      touched_.insert(at->first);
      forgotten.insert(at->first.whole_engine());
      ++changes_;
    }
    at = is_old ? past_.erase(at) : std::next(at);
  }
  if (forgotten.empty()) return;
  for (const auto* known : {&identities_, &past_}) {
    for (const auto& [who, state] : *known) forgotten.erase(who.whole_engine());
  }
  for (const Identity& engine : forgotten) buckets_.forget(engine);
  if (changes_ != changes_before) count_retired_series();
}

// An engine that comes back continues its counts.
void BusReader::recall_engine(const Identity& who) {
  for (auto at = past_.begin(); at != past_.end();) {
    const auto next = std::next(at);
    if (at->first.same_engine(who)) identities_.insert(past_.extract(at));
    at = next;
  }
}

}  // namespace rankbus
