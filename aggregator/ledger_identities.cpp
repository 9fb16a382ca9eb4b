// The part of BusReader that keeps the number of identities bounded: engines that are not shown any
// more are put aside, old identities of an engine become one, old engines of a model do, and what
// is very old is forgotten. Nothing of it costs more than a look at each identity.
#include <algorithm>
#include <rankbus/aggregator/bus_reader.hpp>

namespace rankbus {
namespace {

using Dead = std::pair<double, Identity>;  // By when it was alive last.

// Folds are told at most so often; each of many short-lived servers would be one.
constexpr double kTellFoldsEvery_s = 600;

// How many engines a message names.
constexpr std::size_t kMostNamed = 3;

// Sums contain what is folded; series of one rank, which nobody shows by then, end. Of a histogram
// with other buckets than the sum has, nothing can be added.
void fold(const IdentityState& from, IdentityState& into) {
  for (const auto& [key, value] : from.retired.values) {
    if (value.reduction == bus::Reduction::each) continue;
    const auto [at, fresh] = into.retired.values.emplace(key, value);
    if (!fresh) (void)add_value(at->second, value);
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

// No identity of the engine is before this one.
Identity first_of_engine(const Identity& who) {
  Identity first = who.whole_engine();
  first.rank = 0;
  return first;
}

std::string names_of(const std::vector<Identity>& engines) {
  std::string names;
  for (std::size_t i = 0; i < std::min(engines.size(), kMostNamed); ++i) {
    const Identity& engine = engines[i];
    names += (i == 0 ? "" : ", ") + ("engine " + engine.engine_text()) + " of model " +
             engine.model + (engine.server.empty() ? "" : " on server " + engine.server);
  }
  if (engines.size() > kMostNamed)
    names += " and " + std::to_string(engines.size() - kMostNamed) + " more";
  return names;
}

}  // namespace

struct BusReader::Engine {
  double last_alive_s = 0;
  bool is_held = false;    // By a living or unread incarnation.
  std::vector<Dead> dead;  // Its identities that nobody holds.
};

void BusReader::tidy_identities(double now_s) {
  const std::uint64_t changes_before = changes_;
  Engines engines = engines_in_view();
  fold_old_ranks(engines, now_s);
  shelve(engines, now_s);
  fold_dead_engines(engines);
  fold_past_engines();
  forget_old(now_s);
  if (changes_ != changes_before) count_retired_series();
  tell_what_was_folded(now_s);
  if (!ledger_) touched_.clear();
}

BusReader::Engines BusReader::engines_in_view() const {
  std::set<Identity> held;
  for (const auto& [name, segment] : live_) held.insert(segment.who);
  for (const auto& [name, left] : unread_) held.insert(left->who);
  Engines engines;
  for (const auto& [who, state] : identities_) {
    Engine& engine = engines[who.whole_engine()];
    engine.last_alive_s = std::max(engine.last_alive_s, state.last_alive_s);
    if (held.count(who) != 0) {
      engine.is_held = true;
    } else if (!who.is_whole_engine()) {
      engine.dead.emplace_back(state.last_alive_s, who);
    }
  }
  return engines;
}

// A series that is shown must not go back when its process does, so whoever is shown is folded only
// beyond a bound that no sane engine has.
void BusReader::fold_old_ranks(Engines& engines, double now_s) {
  for (auto& [whole, engine] : engines) {
    std::size_t left = engine.dead.size();
    if (left <= bounds_.most_dead_per_engine) continue;
    std::sort(engine.dead.begin(), engine.dead.end());
    for (const auto& [last_alive_s, who] : engine.dead) {
      const bool is_shown = now_s - last_alive_s <= bounds_.retain_rank_s;
      if (left <= (is_shown ? bounds_.most_shown_dead_per_engine : bounds_.most_dead_per_engine))
        break;
      const auto old = identities_.extract(who);
      fold(old.mapped(), identities_[whole]);
      touched_.insert({who, whole});
      ++changes_;
      --left;
    }
  }
}

void BusReader::shelve(Engines& engines, double now_s) {
  for (auto at = identities_.begin(); at != identities_.end();) {
    const auto next = std::next(at);
    const Engine& engine = engines[at->first.whole_engine()];
    if (!engine.is_held && now_s - engine.last_alive_s > bounds_.retain_s) {
      past_series_ += lines_of(at->second.retired.values);
      past_.insert(identities_.extract(at));
    }
    at = next;
  }
  std::erase_if(engines, [&](const auto& entry) {
    return !entry.second.is_held && now_s - entry.second.last_alive_s > bounds_.retain_s;
  });
}

void BusReader::fold_dead_engines(const Engines& engines) {
  std::vector<Dead> dead;
  for (const auto& [whole, engine] : engines) {
    if (!engine.is_held && !whole.is_whole_model()) dead.emplace_back(engine.last_alive_s, whole);
  }
  if (dead.size() <= bounds_.most_dead_engines) return;
  std::sort(dead.begin(), dead.end());
  dead.resize(dead.size() - bounds_.most_dead_engines);
  for (const auto& [last_alive_s, engine] : dead) fold_engine(identities_, engine);
  bound_models();
}

// What nobody sees must not keep the living from being shown, so it has a share of the series as
// well. An eighth more goes than must, or the oldest would be looked for at every look.
void BusReader::fold_past_engines() {
  const auto has_room = [&](std::uint64_t of_eight) {
    return past_.size() <= bounds_.most_past_identities / 8 * of_eight &&
           past_series_ <= bounds_.most_past_series / 8 * of_eight;
  };
  if (has_room(8)) return;
  std::map<Identity, double> last_alive_s;
  for (const auto& [who, state] : past_) {
    double& latest = last_alive_s[who.whole_engine()];
    latest = std::max(latest, state.last_alive_s);
  }
  std::vector<Dead> dead;
  for (const auto& [whole, latest] : last_alive_s) {
    if (!whole.is_whole_model()) dead.emplace_back(latest, whole);
  }
  std::sort(dead.begin(), dead.end());
  for (const auto& [latest, engine] : dead) {
    if (has_room(7)) break;
    fold_engine(past_, engine);
  }
  bound_models();
}

void BusReader::fold_engine(Identities& from, const Identity& engine) {
  const Identity whole = engine.whole_model();
  // Who adds to it is younger than it, so it may be shown again.
  recall_engine(whole);
  IdentityState& total = identities_[whole];
  for (auto at = from.lower_bound(first_of_engine(engine));
       at != from.end() && at->first.same_engine(engine);) {
    if (&from == &past_) past_series_ -= lines_of(at->second.retired.values);
    fold(at->second, total);
    touched_.insert(at->first);
    at = from.erase(at);
  }
  touched_.insert(whole);
  buckets_.forget(engine);
  ++folded_engines_;
  ++changes_;
}

// Whoever changes the model's name with every start does not get further than this.
void BusReader::bound_models() {
  std::vector<Dead> models;
  for (const auto* known : {&identities_, &past_}) {
    for (const auto& [who, state] : *known) {
      if (who.is_whole_model()) models.emplace_back(state.last_alive_s, who);
    }
  }
  if (models.size() <= bounds_.most_models) return;
  std::sort(models.begin(), models.end());
  models.resize(models.size() - bounds_.most_models);
  for (const auto& [last_alive_s, whole] : models) {
    recall_engine(whole);
    identities_.erase(whole);
    touched_.insert(whole);
  }
}

void BusReader::forget_old(double now_s) {
  std::set<Identity> forgotten;  // Whole engines.
  for (auto at = past_.begin(); at != past_.end();) {
    const bool is_old = now_s - at->second.last_alive_s > bounds_.forget_after_s;
    if (is_old) {
      past_series_ -= lines_of(at->second.retired.values);
      touched_.insert(at->first);
      forgotten.insert(at->first.whole_engine());
      ++changes_;
    }
    at = is_old ? past_.erase(at) : std::next(at);
  }
  std::vector<Identity> gone;
  for (const Identity& engine : forgotten) {
    const auto is_known = [&](const Identities& known) {
      const auto at = known.lower_bound(first_of_engine(engine));
      return at != known.end() && at->first.same_engine(engine);
    };
    if (is_known(identities_) || is_known(past_)) continue;
    buckets_.forget(engine);
    gone.push_back(engine);
  }
  if (gone.empty()) return;
  warn_("forgotten, because there was no sign of life for " +
        std::to_string(static_cast<std::uint64_t>(bounds_.forget_after_s)) +
        " s (--forget-after): " + names_of(gone) + ". Whoever comes back counts from 0");
}

// An engine that comes back continues its counts.
void BusReader::recall_engine(const Identity& who) {
  for (auto at = past_.lower_bound(first_of_engine(who));
       at != past_.end() && at->first.same_engine(who);) {
    const auto next = std::next(at);
    past_series_ -= lines_of(at->second.retired.values);
    identities_.insert(past_.extract(at));
    at = next;
  }
}

void BusReader::tell_what_was_folded(double now_s) {
  if (folded_engines_ == folds_told_ || now_s - folds_told_s_ < kTellFoldsEvery_s) return;
  warn_(
      std::to_string(folded_engines_ - folds_told_) +
      " engines without a living process are one of engine=\"other\" for each model now, because "
      "there are more than are kept one by one. Sums over engines stay; whoever comes back counts "
      "from 0. Name servers by RANKBUS_SERVER if each restart has another name. Counted in "
      "rankbus_engines_folded_total");
  folds_told_ = folded_engines_;
  folds_told_s_ = now_s;
}

}  // namespace rankbus
