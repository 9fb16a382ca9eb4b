// Goal:   whatever a client sends, and in whatever pieces, the server answers with whole HTTP or
//         closes, and stays; whatever texts a producer chose, text, JSON and log stay readable.
// Method: libFuzzer over two kinds of inputs, by their first byte. Requests go to a real server on
// a
//         loopback socket: byte 0xFF ends a piece, 0xFE begins another connection. Texts become
//         names, labels and numbers of a snapshot, which is rendered.
// Replay: build/fuzz/tests/fuzz/fuzz_http FILE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <rankbus/exporters/engine_log.hpp>
#include <rankbus/exporters/http_server.hpp>
#include <rankbus/exporters/log_output.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <thread>
#include <vector>

#include "fuzz_lib.hpp"

namespace fuzz {
namespace {

using rankbus::Family;
using rankbus::FamilyType;
using rankbus::Number;
using rankbus::Series;
using rankbus::Snapshot;

constexpr char kPieceEnds = '\xff';
constexpr char kConnectionEnds = '\xfe';

std::shared_ptr<const Snapshot> served() {
  static const std::shared_ptr<const Snapshot> all = [] {
    auto made = std::make_shared<Snapshot>();
    made->complete = true;
    for (int i = 0; i < 3; ++i) {
      Series series;
      series.labels = {{"engine", std::to_string(i)}, {"server", "s"}};
      series.server = series.engine = std::to_string(i);
      series.value = Number(std::uint64_t{7});
      if (made->families.empty())
        made->families.push_back({"a_total", "A", FamilyType::counter, {}});
      made->families[0].series.push_back(series);
      made->analyses.push_back({std::to_string(i), "s", std::to_string(i), "{\"x\":1}"});
    }
    return made;
  }();
  return all;
}

rankbus::HttpServer& server() {
  static const std::unique_ptr<rankbus::HttpServer> started = [] {
    const auto address = rankbus::parse_listen_address("127.0.0.1:0");
    rankbus::HttpLimits limits;
    limits.request_timeout = std::chrono::milliseconds(500);
    auto made =
        rankbus::HttpServer::start(address.value(), [](rankbus::SnapshotParts) { return served(); },
                                   limits, {"known.example"});
    FUZZ_REQUIRE(made, made.error());
    return std::move(made.value());
  }();
  return *started;
}

class Client {
 public:
  Client() {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // Closing forgets the connection at once; else ports would run out.
    const linger at_once{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server().port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    FUZZ_REQUIRE(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
                 std::strerror(errno));
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The server may have closed by now, which is its right.
  void send(std::string_view piece) const {
    (void)!::send(fd_, piece.data(), piece.size(), MSG_NOSIGNAL);
    std::this_thread::yield();
  }
  // What the server says until it closes. It may wait for the rest of a request, up to its limit;
  // who is not `patient` takes what is there after a moment.
  std::string read_to_end(bool is_patient) const {
    shutdown(fd_, SHUT_WR);
    std::string all;
    for (;;) {
      pollfd ready{fd_, POLLIN, 0};
      const int found = poll(&ready, 1, is_patient ? 60'000 : 10);
      if (found < 0 && errno == EINTR) continue;
      if (found == 0 && !is_patient) return all;
      FUZZ_REQUIRE(found > 0, "the server keeps a connection that has ended");
      char buffer[16384];
      const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
      if (got <= 0) return all;
      all.append(buffer, static_cast<std::size_t>(got));
    }
  }

 private:
  int fd_ = -1;
};

// Answers one behind the other, each with its length. A HEAD's has none of the body it speaks of,
// and pieces may split that word, so any answer may end with its headers.
class AnswerJudge {
 public:
  AnswerJudge(std::string_view answers, bool is_whole) : left_(answers), is_whole_(is_whole) {}

  void judge() {
    while (!left_.empty()) {
      const std::size_t end = left_.find("\r\n\r\n");
      FUZZ_REQUIRE(end != left_.npos || !is_whole_, left_);
      if (end == left_.npos) return;
      judge_head(left_.substr(0, end + 2));
      left_.remove_prefix(end + 4);
      if (left_.starts_with("HTTP/1.")) continue;
      FUZZ_REQUIRE(left_.empty() || left_.size() >= length_ || !is_whole_, left_);
      if (left_.size() < length_) return;
      judge_body(left_.substr(0, length_));
      left_.remove_prefix(length_);
    }
  }

 private:
  void judge_head(std::string_view head) {
    length_ = 0;
    status_ = 0;
    type_ = {};
    for (bool is_first = true; !head.empty(); is_first = false) {
      const std::size_t end = head.find("\r\n");
      const std::string_view line = head.substr(0, end);
      head.remove_prefix(end + 2);
      require_log_line(line);
      if (is_first) {
        FUZZ_REQUIRE(
            line.size() >= 12 && (line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.0 ")),
            line);
        std::from_chars(line.data() + 9, line.data() + 12, status_);
        FUZZ_REQUIRE(status_ >= 100 && status_ < 600, line);
        continue;
      }
      const std::size_t colon = line.find(": ");
      FUZZ_REQUIRE(colon != line.npos && colon > 0, line);
      const std::string_view value = line.substr(colon + 2);
      if (line.substr(0, colon) == "Content-Type") type_ = value;
      if (line.substr(0, colon) != "Content-Length") continue;
      const auto [at, error] = std::from_chars(value.data(), value.data() + value.size(), length_);
      FUZZ_REQUIRE(error == std::errc() && at == value.data() + value.size(), line);
    }
  }
  void judge_body(std::string_view body) const {
    if (type_ == rankbus::kPrometheusTextType) require_prometheus_text(body);
    if (type_ == "application/json") FUZZ_REQUIRE(nlohmann::json::accept(body), body);
  }

  std::string_view left_;
  bool is_whole_;
  std::size_t length_ = 0;
  int status_ = 0;
  std::string_view type_;
};

void request(std::string_view input) {
  for (int connections = 0; connections < 4 && !input.empty(); ++connections) {
    const std::size_t end = std::min(input.find(kConnectionEnds), input.size());
    std::string_view all = input.substr(0, end);
    input.remove_prefix(std::min(end + 1, input.size()));
    // Few wait as long as a client could; always the same ones, so that a run can be repeated.
    const bool is_patient = std::hash<std::string_view>()(all) % 64 == 0;
    const Client client;
    for (int pieces = 0; pieces < 16 && !all.empty(); ++pieces) {
      const std::size_t piece_end = std::min(all.find(kPieceEnds), all.size());
      client.send(all.substr(0, piece_end));
      all.remove_prefix(std::min(piece_end + 1, all.size()));
    }
    AnswerJudge(client.read_to_end(is_patient), is_patient).judge();
  }
}

// Takes an input apart into texts and numbers.
class Source {
 public:
  explicit Source(std::string_view input) : left_(input) {}
  bool is_empty() const { return left_.empty(); }
  std::uint64_t number() {
    std::uint64_t value = 0;
    const std::size_t bytes = std::min<std::size_t>(8, left_.size());
    std::memcpy(&value, left_.data(), bytes);
    left_.remove_prefix(bytes);
    return value;
  }
  unsigned byte() {
    if (left_.empty()) return 0;
    const auto value = static_cast<unsigned char>(left_.front());
    left_.remove_prefix(1);
    return value;
  }
  double real() {
    const std::uint64_t bits = number();
    double value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  // Up to a NUL, which no text of a producer has.
  std::string text() {
    const std::size_t end = std::min(left_.find('\0'), left_.size());
    std::string taken(left_.substr(0, end));
    left_.remove_prefix(std::min(end + 1, left_.size()));
    return taken;
  }

 private:
  std::string_view left_;
};

Number some_number(Source& source) {
  switch (source.byte() % 3) {
    case 0:
      return source.number();
    case 1:
      return static_cast<std::int64_t>(source.number());
    default:
      return source.real();
  }
}

Family some_family(Source& source, int number) {
  static const auto kBounds =
      std::make_shared<const std::vector<double>>(std::vector<double>{-1, 0.005, 1, 1e6, 1e300});
  Family family;
  family.name = "family_" + std::to_string(number);
  family.help = source.text();
  family.type = static_cast<FamilyType>(source.byte() % 3);
  for (unsigned i = 0, count = source.byte() % 4; i < count; ++i) {
    Series series;
    // The first label makes series differ, whatever the others say.
    series.labels = {{"a", std::to_string(i)}, {"engine", source.text()}, {"zone", source.text()}};
    series.server = source.text();
    series.engine = series.labels[1].second;
    if (family.type == FamilyType::histogram) {
      rankbus::Histogram histogram;
      histogram.bounds = kBounds;
      for (std::size_t k = 0; k <= kBounds->size(); ++k) histogram.counts.push_back(source.byte());
      histogram.sum = source.real();
      series.value = histogram;
    } else {
      series.value = some_number(source);
    }
    family.series.push_back(std::move(series));
  }
  return family;
}

void fill_for_the_log(Source& source, Snapshot& snapshot) {
  for (unsigned i = 0, count = 1 + source.byte() % 2; i < count; ++i) {
    rankbus::EngineTotals& engine = snapshot.engines.emplace_back();
    engine.server = engine.server_label = source.text();
    engine.model_name = source.text();
    engine.engine = i;
    engine.live = true;
    engine.clock_s = source.real();
    engine.generation_tokens = source.number();
    engine.kv_cache_usage = source.real();
    engine.num_gpu_blocks = source.text();
    engine.perf = rankbus::PerfTotals{source.real(), source.real(), source.real()};
    engine.cuda_graph_settings = rankbus::CudaGraphSettings{source.text(), source.text()};
    engine.spec_decoding = rankbus::SpecDecodingTotals{
        source.number(), source.number(), source.number(), {source.number(), source.number()}};
    rankbus::IntervalStats& interval = snapshot.intervals.emplace_back();
    interval.server = engine.server;
    interval.engine = i;
    interval.has_several_connectors = source.byte() % 2 != 0;
    interval.connectors.push_back({source.text(), {{source.text(), some_number(source)}}});
    interval.cuda_graphs.push_back(
        {source.number(), source.number(), source.number(), source.text(), source.number()});
    rankbus::IterationDetail& iteration = snapshot.iterations.emplace_back();
    iteration.server = engine.server;
    iteration.engine = i;
    iteration.elapsed_ms = source.real();
  }
  snapshot.alerts.push_back(
      {source.text(), "warning", source.text(), source.byte() % 2 != 0, source.real()});
}

void render(std::string_view input) {
  static const std::string kLog = folder() + "/log";
  static const rankbus::LogOutput log =
      rankbus::LogOutput::open({spdlog::level::debug, false, kLog}).value();
  Source source(input);
  Snapshot snapshot;
  snapshot.pass = 1;
  snapshot.complete = true;
  for (int i = 0; i < 4 && !source.is_empty(); ++i)
    snapshot.families.push_back(some_family(source, i));
  std::string text;
  rankbus::render_prometheus_text(snapshot, {}, text);
  require_prometheus_text(text);
  text.clear();
  rankbus::render_prometheus_text(snapshot, {source.text(), source.text()}, text);
  require_prometheus_text(text);
  fill_for_the_log(source, snapshot);
  (void)!truncate(kLog.c_str(), 0);
  rankbus::EngineLog engine_log(log.logger());
  engine_log.observe(snapshot);
  snapshot.monotonic_s += 10;
  for (auto& engine : snapshot.engines) engine.generation_tokens += source.number();
  engine_log.log(snapshot);
  std::string lines(1 << 16, '\0');
  FILE* file = std::fopen(kLog.c_str(), "r");
  lines.resize(std::fread(lines.data(), 1, lines.size(), file));
  std::fclose(file);
  if (lines.size() < (1 << 16)) require_log_lines(lines);
}

}  // namespace
}  // namespace fuzz

// C-19
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, bytes - 1);
  data[0] % 2 == 0 ? fuzz::request(input) : fuzz::render(input);
  return 0;
}
