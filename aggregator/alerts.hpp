// aggregator/alerts.hpp: conditions that somebody should know of, as one mechanism.
//
// An alert is a state: it holds, since some time, or it does not. Whoever evaluates a condition
// raises it again at every look; what is not raised any more is over. What changed goes to the log
// once, what holds is shown as `rankbus_alert`. Thresholds are the user's, or ours where no other
// value could be right.
#pragma once

#include <cstdint>
#include <map>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankbus {

class FamilyBuilder;

// In rising order.
enum class AlertLevel : std::uint8_t { info = 1, warning, critical };
const char* alert_level_name(AlertLevel level);

struct Alert {
  std::string name;
  AlertLevel level = AlertLevel::warning;
  std::string metric;  // What was looked at.
  double value = 0;
  double threshold = 0;
  std::string message;
  Labels labels;  // Of the series that it is about, sorted by name.
  std::string server, engine;
  double since_s = 0;  // CLOCK_MONOTONIC; set by the board.
};

struct AlertChange {
  Alert alert;
  bool is_over = false;
  double held_s = 0;  // How long it had held, when it is over.
};

// All alerts that hold. Used by the reading thread only. At most kMaxAlerts; further ones are
// counted and shown by that number alone.
class AlertBoard {
 public:
  static constexpr std::size_t kMaxAlerts = 1000;

  // Between begin and end, everything that holds is raised; end returns what changed, and ends what
  // was not raised.
  void begin(double now_s);
  void raise(Alert alert);
  std::vector<AlertChange> end();

  std::vector<Alert> holding() const;
  std::uint64_t suppressed() const { return suppressed_; }
  // Adds `rankbus_alert` (1 for each that holds) and `rankbus_alerts_suppressed_total`.
  void add_families(FamilyBuilder& out) const;

 private:
  using Key = std::pair<std::string, Labels>;
  struct State {
    Alert alert;
    bool is_raised = false;
  };
  double now_s_ = 0;
  std::map<Key, State> alerts_;
  std::vector<AlertChange> changes_;
  std::uint64_t suppressed_ = 0;
};

// A user's threshold on a family of the snapshot:
//
//   NAME [info|warning|critical] METRIC[{label="value",...}] OP NUMBER [for SECONDS]
//   NAME [LEVEL] rate(METRIC[{...}]) OP NUMBER [for SECONDS]
//
// OP is >, >=, < or <=. A histogram stands for its count. `rate` is the growth per second since the
// look before.
struct AlertRule {
  std::string name;
  AlertLevel level = AlertLevel::warning;
  std::string metric;
  Labels where;
  bool is_rate = false;
  std::string op;
  double threshold = 0;
  double for_s = 0;

  // Errors say what was found and what is expected.
  static Result<AlertRule> parse(std::string_view text);
  bool holds(double value) const;
};

// Looks at a snapshot's families by the user's rules and by ours: samples that were lost, ranks
// that are missing or silent while their peers write, segments that contradict themselves.
class AlertWatch {
 public:
  explicit AlertWatch(std::vector<AlertRule> rules = {}) : rules_(std::move(rules)) {}

  // `families` sorted by name, in the records' own names.
  void look(const std::vector<Family>& families, double now_s, AlertBoard& board);

 private:
  struct Before {
    double value = 0;
    double at_s = 0;
    double rate = 0;
    double seen_s = 0;
  };
  struct Holding {
    double since_s = 0;
    double seen_s = 0;
  };
  using SeriesKey = std::pair<std::string, Labels>;

  double rate_of(const SeriesKey& key, double value, double now_s);
  // How long the condition of a rule has held for a series, this look included.
  double held_s(std::size_t rule, const SeriesKey& key, double now_s);
  void look_by_rule(std::size_t index, const std::vector<Family>& families, double now_s,
                    AlertBoard& board);
  void look_at_losses(const std::vector<Family>& families, double now_s, AlertBoard& board);
  static void look_at_contradictions(const std::vector<Family>& families, AlertBoard& board);
  void look_at_ranks(const std::vector<Family>& families, double now_s, AlertBoard& board);

  std::vector<AlertRule> rules_;
  std::map<SeriesKey, Before> before_;
  std::map<std::pair<std::size_t, SeriesKey>, Holding> holding_;  // By rule and series.
  // By server and engine: the labels of its series, and when it lost samples last.
  std::map<std::pair<std::string, std::string>, std::pair<Series, double>> losing_;
};

}  // namespace rankbus
