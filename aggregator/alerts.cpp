#include <algorithm>
#include <charconv>
#include <cmath>
#include <rankbus/aggregator/alerts.hpp>
#include <rankbus/aggregator/reduce.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <rankbus/bus/declaration.hpp>
#include <set>

namespace rankbus {
namespace {

// Rates need time to be more than noise of one pass.
constexpr double kRateAtLeast_s = 1;
// A rank is silent when it has said nothing for so long while a peer of its engine wrote just now.
constexpr double kSilent_s = 10;
constexpr double kJustNow_s = 2;
// A rank that starts a moment later than its peers is not missing.
constexpr double kMissingFor_s = 10;
// An engine that lost no sample for so long has stopped losing them.
constexpr double kLossIsOver_s = 60;

double number_of(const Series& series) {
  if (const auto* number = std::get_if<Number>(&series.value)) return as_double(*number);
  std::uint64_t count = 0;
  for (const std::uint64_t each : std::get<Histogram>(series.value).counts) count += each;
  return static_cast<double>(count);
}

const Family* find(const std::vector<Family>& families, const std::string& name) {
  const auto at = std::lower_bound(
      families.begin(), families.end(), name,
      [](const Family& family, const std::string& wanted) { return family.name < wanted; });
  return at != families.end() && at->name == name ? &*at : nullptr;
}

bool has_labels(const Series& series, const Labels& where) {
  return std::all_of(where.begin(), where.end(), [&](const auto& wanted) {
    return std::find(series.labels.begin(), series.labels.end(), wanted) != series.labels.end();
  });
}

std::string label(const Series& series, const std::string& name) {
  for (const auto& [each, value] : series.labels) {
    if (each == name) return value;
  }
  return {};
}

std::string short_number(double value) {
  char text[32];
  const auto [end, error] =
      std::to_chars(text, text + sizeof text, value, std::chars_format::general, 6);
  return {text, end};
}

// NAME{a="b"}, for people.
std::string series_text(const std::string& name, const Labels& labels) {
  std::string text = name;
  const char* between = "{";
  for (const auto& [label_name, value] : labels) {
    text += between + label_name + "=\"" + value + "\"";
    between = ",";
  }
  return labels.empty() ? text : text + "}";
}

Alert about(const Series& series, std::string name, AlertLevel level, std::string metric,
            double value, double threshold, std::string message) {
  Alert alert;
  alert.name = std::move(name);
  alert.level = level;
  alert.metric = std::move(metric);
  alert.value = value;
  alert.threshold = threshold;
  alert.message = std::move(message);
  alert.labels = series.labels;
  alert.server = series.server;
  alert.engine = series.engine;
  return alert;
}

// Reads the words of a rule one after the other.
class RuleText {
 public:
  explicit RuleText(std::string_view text) : left_(text) {}

  std::string_view word() {
    skip_spaces();
    const std::size_t end = std::min(left_.find_first_of(" \t"), left_.size());
    return take(end);
  }
  std::string_view peek() const {
    RuleText copy = *this;
    return copy.word();
  }
  // Up to one of these characters.
  std::string_view until(std::string_view stops) {
    skip_spaces();
    return take(std::min(left_.find_first_of(stops), left_.size()));
  }
  bool skip(std::string_view expected) {
    skip_spaces();
    if (!left_.starts_with(expected)) return false;
    left_.remove_prefix(expected.size());
    return true;
  }
  // A quoted text with \" and \\ in it; false if there is none.
  bool quoted(std::string& out) {
    if (!skip("\"")) return false;
    while (!left_.empty()) {
      const char c = left_.front();
      left_.remove_prefix(1);
      if (c == '"') return true;
      if (c == '\\' && !left_.empty()) {
        out += left_.front();
        left_.remove_prefix(1);
      } else {
        out += c;
      }
    }
    return false;
  }
  bool number(double& out) {
    const std::string_view text = word();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc{} && end == text.data() + text.size() && std::isfinite(out);
  }
  bool at_end() {
    skip_spaces();
    return left_.empty();
  }

 private:
  void skip_spaces() {
    const std::size_t start = std::min(left_.find_first_not_of(" \t"), left_.size());
    left_.remove_prefix(start);
  }
  std::string_view take(std::size_t count) {
    const std::string_view taken = left_.substr(0, count);
    left_.remove_prefix(count);
    return taken;
  }
  std::string_view left_;
};

// The labels behind a metric's name, if there are any; an error's text, or empty.
std::string parse_where(RuleText& text, Labels& where) {
  if (!text.skip("{")) return {};
  while (!text.skip("}")) {
    const std::string name(text.until("= \t}"));
    std::string value;
    if (!bus::is_label_name(name.data(), name.size()) || !text.skip("=") || !text.quoted(value))
      return "labels are written {name=\"value\",...}";
    where.emplace_back(name, value);
    text.skip(",");
  }
  std::sort(where.begin(), where.end());
  return {};
}

}  // namespace

const char* alert_level_name(AlertLevel level) {
  return level == AlertLevel::info ? "info" : level == AlertLevel::warning ? "warning" : "critical";
}

void AlertBoard::begin(double now_s) {
  now_s_ = now_s;
  changes_.clear();
  for (auto& [key, state] : alerts_) state.is_raised = false;
}

void AlertBoard::raise(Alert alert) {
  const Key key{alert.name, alert.labels};
  const auto found = alerts_.find(key);
  if (found != alerts_.end()) {
    alert.since_s = found->second.alert.since_s;
    found->second = {std::move(alert), true};
    return;
  }
  if (alerts_.size() >= kMaxAlerts) {
    ++suppressed_;
    return;
  }
  alert.since_s = now_s_;
  changes_.push_back({alert, false, 0});
  alerts_[key] = {std::move(alert), true};
}

std::vector<AlertChange> AlertBoard::end() {
  for (auto at = alerts_.begin(); at != alerts_.end();) {
    if (at->second.is_raised) {
      ++at;
      continue;
    }
    const Alert& alert = at->second.alert;
    changes_.push_back({alert, true, now_s_ - alert.since_s});
    at = alerts_.erase(at);
  }
  return std::exchange(changes_, {});
}

std::vector<Alert> AlertBoard::holding() const {
  std::vector<Alert> all;
  for (const auto& [key, state] : alerts_) all.push_back(state.alert);
  return all;
}

void AlertBoard::add_families(FamilyBuilder& out) const {
  for (const auto& [key, state] : alerts_) {
    const Alert& alert = state.alert;
    Identity who;
    who.server = alert.server;
    Series& series = out.gauge(
        "rankbus_alert", "1 for each alert that holds",
        joined({{"level", alert_level_name(alert.level)}, {"name", alert.name}}, alert.labels), who,
        std::uint64_t{1});
    series.engine = alert.engine;
  }
  if (suppressed_ == 0) return;
  out.counter("rankbus_alerts_suppressed_total",
              "Alerts that were not taken up because too many held already", {}, Identity{},
              suppressed_);
}

Result<AlertRule> AlertRule::parse(std::string_view text) {
  const std::string expected =
      "; expected NAME [info|warning|critical] METRIC[{label=\"value\"}] >|>=|<|<= NUMBER "
      "[for SECONDS], where METRIC may be rate(METRIC{...})";
  const auto refuse = [&](const std::string& what) {
    return Error{"\"" + std::string(text) + "\": " + what + expected};
  };
  AlertRule rule;
  RuleText words(text);
  rule.name = words.word();
  if (rule.name.empty() || rule.name.find_first_of("{}<>=\"") != std::string::npos)
    return refuse("it has no name");
  for (const AlertLevel level : {AlertLevel::info, AlertLevel::warning, AlertLevel::critical}) {
    if (words.peek() == alert_level_name(level)) {
      rule.level = level;
      words.word();
      break;
    }
  }
  rule.is_rate = words.skip("rate(");
  rule.metric = words.until("{)<>= \t");
  if (!bus::is_name(rule.metric.data(), rule.metric.size()))
    return refuse("\"" + rule.metric + "\" is no metric's name");
  if (const std::string fault = parse_where(words, rule.where); !fault.empty())
    return refuse(fault);
  if (rule.is_rate && !words.skip(")")) return refuse("rate( is not closed");
  for (const char* op : {">=", "<=", ">", "<"}) {
    if (rule.op.empty() && words.skip(op)) rule.op = op;
  }
  if (rule.op.empty()) return refuse("there is no comparison");
  if (!words.number(rule.threshold)) return refuse("the threshold is no number");
  if (words.at_end()) return rule;
  if (words.word() != "for" || !words.number(rule.for_s) || rule.for_s < 0 || !words.at_end())
    return refuse("what follows the threshold is not \"for SECONDS\"");
  return rule;
}

bool AlertRule::holds(double value) const {
  if (op == ">") return value > threshold;
  if (op == ">=") return value >= threshold;
  if (op == "<") return value < threshold;
  return value <= threshold;
}

// The rate of the latest stretch of at least a second; looks in between see the same.
double AlertWatch::rate_of(const SeriesKey& key, double value, double now_s) {
  const auto [at, is_new] = before_.try_emplace(key, Before{value, now_s, 0, now_s});
  Before& before = at->second;
  before.seen_s = now_s;
  if (!is_new && now_s - before.at_s >= kRateAtLeast_s) {
    before.rate = std::max(0.0, value - before.value) / (now_s - before.at_s);
    before.value = value;
    before.at_s = now_s;
  }
  return before.rate;
}

double AlertWatch::held_s(std::size_t rule, const SeriesKey& key, double now_s) {
  const auto [at, is_new] = holding_.try_emplace({rule, key}, Holding{now_s, now_s});
  at->second.seen_s = now_s;
  return now_s - at->second.since_s;
}

void AlertWatch::look_by_rule(std::size_t index, const std::vector<Family>& families, double now_s,
                              AlertBoard& board) {
  const AlertRule& rule = rules_[index];
  const Family* family = find(families, rule.metric);
  if (family == nullptr) return;
  for (const Series& series : family->series) {
    if (!has_labels(series, rule.where)) continue;
    const SeriesKey key{rule.metric, series.labels};
    const double value = rule.is_rate ? rate_of(key, number_of(series), now_s) : number_of(series);
    if (!rule.holds(value) || held_s(index, key, now_s) < rule.for_s) continue;
    const std::string what = series_text(rule.metric, series.labels);
    board.raise(about(series, rule.name, rule.level, rule.metric, value, rule.threshold,
                      (rule.is_rate ? "rate of " + what : what) + " is " + short_number(value) +
                          ", limit " + rule.op + " " + short_number(rule.threshold)));
  }
}

// One alert for an engine, whatever the number of its ranks and streams. Losses come in bursts, so
// it holds until there was none for a while.
void AlertWatch::look_at_losses(const std::vector<Family>& families, double now_s,
                                AlertBoard& board) {
  const Family* family = find(families, "rankbus_samples_lost_total");
  struct Loss {
    double per_second = 0;
    std::set<std::string> streams;
  };
  std::map<std::pair<std::string, std::string>, Loss> losses;
  for (std::size_t i = 0; family != nullptr && i < family->series.size(); ++i) {
    const Series& series = family->series[i];
    const double rate = rate_of({family->name, series.labels}, number_of(series), now_s);
    if (rate <= 0) continue;
    Loss& loss = losses[{series.server, series.engine}];
    loss.per_second += rate;
    loss.streams.insert(label(series, "stream"));
    Series engine = series;
    std::erase_if(engine.labels, [](const auto& each) {
      return each.first != "engine" && each.first != "model_name" && each.first != "server";
    });
    losing_[{series.server, series.engine}] = {std::move(engine), now_s};
  }
  std::erase_if(losing_,
                [&](const auto& entry) { return now_s - entry.second.second > kLossIsOver_s; });
  for (const auto& [key, losing] : losing_) {
    const Loss& loss = losses[key];
    std::string streams;
    for (const std::string& stream : loss.streams)
      streams += (streams.empty() ? "" : ", ") + stream;
    board.raise(about(losing.first, "samples_lost", AlertLevel::warning,
                      "rankbus_samples_lost_total", loss.per_second, 0,
                      "engine " + key.second + " loses " + short_number(loss.per_second) +
                          " samples/s" + (streams.empty() ? "" : " of " + streams) +
                          "; totals are exact, what is made of samples covers less"));
  }
}

void AlertWatch::look_at_contradictions(const std::vector<Family>& families, AlertBoard& board) {
  for (const char* name : {"rankbus_checkpoints_mismatches_total", "rankbus_quarantined"}) {
    const Family* family = find(families, name);
    if (family == nullptr) continue;
    for (const Series& series : family->series) {
      if (number_of(series) <= 0) continue;
      board.raise(about(series, "segment_contradicts_itself", AlertLevel::critical, family->name,
                        number_of(series), 0,
                        "a segment's totals disagree with its records; it is read no more"));
    }
  }
}

void AlertWatch::look_at_ranks(const std::vector<Family>& families, double now_s,
                               AlertBoard& board) {
  const Family* expected = find(families, "rankbus_ranks_expected");
  const Family* reporting = find(families, "rankbus_ranks_reporting");
  for (std::size_t i = 0; expected != nullptr && i < expected->series.size(); ++i) {
    const Series& series = expected->series[i];
    double here = 0;
    if (reporting != nullptr) {
      for (const Series& each : reporting->series) {
        if (each.labels == series.labels) here = number_of(each);
      }
    }
    const SeriesKey key{expected->name, series.labels};
    // An engine without any rank is over, or has not begun.
    if (here <= 0 || here >= number_of(series)) continue;
    if (held_s(rules_.size(), key, now_s) < kMissingFor_s) continue;
    board.raise(about(series, "ranks_missing", AlertLevel::warning, "rankbus_ranks_reporting", here,
                      number_of(series),
                      short_number(here) + " of " + short_number(number_of(series)) +
                          " ranks of this node report"));
  }
  const Family* age = find(families, "rankbus_source_age_seconds");
  if (age == nullptr) return;
  std::map<std::pair<std::string, std::string>, double> youngest;
  const auto is_rank = [](const Series& series) { return label(series, "role") == "worker"; };
  for (const Series& series : age->series) {
    if (!is_rank(series)) continue;
    const auto [at, is_new] =
        youngest.try_emplace({series.server, series.engine}, number_of(series));
    at->second = std::min(at->second, number_of(series));
  }
  for (const Series& series : age->series) {
    if (!is_rank(series) || number_of(series) < kSilent_s) continue;
    if (youngest.at({series.server, series.engine}) > kJustNow_s) continue;
    board.raise(about(series, "rank_silent", AlertLevel::warning, age->name, number_of(series),
                      kSilent_s,
                      "rank " + label(series, "rank") + " has written nothing for " +
                          short_number(number_of(series)) + " s while its peers write"));
  }
}

void AlertWatch::look(const std::vector<Family>& families, double now_s, AlertBoard& board) {
  for (std::size_t index = 0; index < rules_.size(); ++index)
    look_by_rule(index, families, now_s, board);
  look_at_losses(families, now_s, board);
  look_at_contradictions(families, board);
  look_at_ranks(families, now_s, board);
  // What was not seen in this look holds no more, or has no series any more.
  std::erase_if(holding_, [&](const auto& entry) { return entry.second.seen_s != now_s; });
  std::erase_if(before_, [&](const auto& entry) { return entry.second.seen_s != now_s; });
}

}  // namespace rankbus
