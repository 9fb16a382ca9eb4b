// Writes one segment whose record type has every kind of field, and prints what it recorded.
//
//   write_segments BUS RECORDS SEGMENT_BYTES close|wait
//
// Each line of the output is one record() call as JSON: the raw 64 bits of every field, arrays
// whole, so that the test can compute by itself what the totals must be. With `wait` the process
// then waits to be killed; with `close` it closes the producer first and ends.
#include <unistd.h>

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <rankbus/producer.hpp>
#include <string>
#include <vector>

namespace {

constexpr double kLatencyValues[] = {0.001, 0.01, 0.1, 1.0, 2.5};
constexpr double kSizeValues[] = {1, 2, 3, 5, 8, 1000};
constexpr double kWaitValues[] = {0.000001, 0.00013, 0.00026, 0.05};
constexpr rankbus::bus::Bounds kLatency = rankbus::bus::bounds_of(kLatencyValues, -12, 4);
constexpr rankbus::bus::Bounds kSize = rankbus::bus::bounds_of(kSizeValues, 0, 12);
constexpr rankbus::bus::Bounds kWait = rankbus::bus::bounds_of(kWaitValues, -22, -3);

// clang-format off
#define EVERYTHING_ROWS(FIELD, OPTIONAL, ARRAY)                                                   \
  FIELD(std::uint64_t, stamp, stamp(), "When")                                                    \
  FIELD(std::uint64_t, number, id(), "Calls of record() before this one")                         \
  OPTIONAL(std::uint8_t, depth, gauge("test_depth"), "A small gauge")                             \
  FIELD(std::uint16_t, colour, label("colour", "red\ngreen\nblue"), "A label with a domain")      \
  FIELD(std::uint16_t, peer, label("peer"), "A label of the dictionary")                          \
  OPTIONAL(std::uint32_t, calls, counter("test_calls_total").split_by("colour"), "Calls")         \
  OPTIONAL(std::uint64_t, moved_bytes,                                                            \
           counter("test_moved_bytes_total").in(Unit::bytes).split_by("peer"), "Bytes")           \
  OPTIONAL(std::uint64_t, pairs, counter("test_pairs_total").split_by("peer colour"),             \
           "Split by both labels")                                                                \
  OPTIONAL(std::int64_t, credit, counter("test_credit_total").with("side", "left"), "Signed")     \
  OPTIONAL(double, energy, counter("test_energy_total"), "A counter of doubles")                  \
  OPTIONAL(std::uint64_t, since_start, running_total("test_since_start_total"), "Its own sum")    \
  OPTIONAL(double, level, gauge("test_level"), "A gauge of doubles")                              \
  OPTIONAL(std::uint64_t, wait_ns,                                                                \
           distribution("test_wait_seconds", kWait).in(Unit::nanoseconds).split_by("colour"),     \
           "Integer nanoseconds")                                                                 \
  OPTIONAL(std::int64_t, signed_size, distribution("test_signed_size", kSize), "Signed")          \
  ARRAY(double, 4, latencies, distribution("test_latency_seconds", kLatency).in(Unit::seconds),   \
        "Doubles, many")                                                                          \
  ARRAY(std::uint64_t, 4, expert_tokens,                                                          \
        counter("test_expert_tokens_total").indexed_as("expert"), "A total for each index")       \
  ARRAY(std::uint64_t, 3, sizes,                                                                  \
        distribution("test_size_tokens", rankbus::bus::bounds_by_model_length()).in(Unit::tokens), \
        "Integers, many")
// clang-format on
RANKBUS_RECORD(Everything, "everything", 4, "Every kind of field", EVERYTHING_ROWS)

#define MARK_ROWS(FIELD, OPTIONAL, ARRAY)              \
  FIELD(std::uint64_t, stamp, stamp(), "When")         \
  FIELD(std::uint64_t, square, id(), "number squared") \
  FIELD(std::uint8_t, low, id(), "number modulo 256")
RANKBUS_RECORD(Mark, "mark", 1, "Samples only", MARK_ROWS)

// The same numbers on every machine.
struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
  }
  bool one_in(std::uint64_t n) { return next() % n == 0; }
  double real(double from, double to) {
    return from * std::pow(to / from, static_cast<double>(next() % 100000) / 100000.0);
  }
};

double odd_double(Random& random, double usual) {
  switch (random.next() % 12) {
    case 0:
      return 0.0;
    case 1:
      return -usual;
    case 2:
      return std::numeric_limits<double>::quiet_NaN();
    case 3:
      return std::numeric_limits<double>::infinity();
    case 4:
      return std::numeric_limits<double>::denorm_min();
    case 5:
      return 0.01;  // A classic bound, which is inclusive.
    case 6:
      return 1e30;
    case 7:
      return -0.0;
    default:
      return usual;
  }
}

struct Call {
  Everything record;
  std::vector<double> latencies;
  std::vector<std::uint64_t> sizes;
  std::vector<std::uint64_t> expert_tokens;
};

Call make_call(Random& random, std::uint64_t number, const std::vector<std::uint16_t>& peers) {
  Call call;
  Everything& r = call.record;
  r.stamp = 1'000'000'000 + number * 1'000'003;
  r.number = number;
  r.colour = static_cast<std::uint16_t>(random.next() % 4);
  r.peer = random.one_in(5) ? std::uint16_t{0} : peers[random.next() % peers.size()];
  if (!random.one_in(3)) r.depth = static_cast<std::uint8_t>(random.next() % 200);
  if (!random.one_in(4)) r.calls = static_cast<std::uint32_t>(random.next() % 1000);
  if (!random.one_in(4)) r.moved_bytes = random.next() << (random.next() % 30);
  if (!random.one_in(4)) r.credit = static_cast<std::int64_t>(random.next() % 1000) - 100;
  if (!random.one_in(4)) r.energy = odd_double(random, random.real(1e-6, 1e6));
  if (!random.one_in(4)) r.since_start = number * 17;
  if (!random.one_in(4)) r.level = odd_double(random, random.real(1e-3, 1e3));
  if (!random.one_in(4)) {
    const std::uint64_t bounds[] = {0, 1, 999, 1000, 1001, 130'000, 260'000, 260'001, 50'000'000};
    r.wait_ns = random.one_in(2) ? bounds[random.next() % 9]
                                 : static_cast<std::uint64_t>(random.real(100, 2e8));
  }
  if (!random.one_in(4)) r.signed_size = static_cast<std::int64_t>(random.next() % 6000) - 1000;
  for (std::uint64_t i = random.next() % 11; i > 0; --i) {
    call.latencies.push_back(odd_double(random, random.real(1e-4, 20)));
  }
  for (std::uint64_t i = random.next() % 8; i > 0; --i) {
    call.sizes.push_back(random.next() % (std::uint64_t{1} << (random.next() % 18)));
  }
  if (!random.one_in(4)) r.pairs = random.next() % 100;
  for (std::uint64_t i = random.next() % 7; i > 0; --i) {
    call.expert_tokens.push_back(random.next() % 1000);
  }
  return call;
}

// Prints every field's raw bits under its name.
struct Printer {
  std::string text = "{";

  void add(unsigned index, const std::string& value) {
    if (text.size() > 1) text += ", ";
    text += std::string("\"") + Everything::RankbusRecord::kFields[index].name + "\": " + value;
  }
  template <unsigned I, class V>
  void scalar(V value) {
    add(I, std::to_string(rankbus::raw_value(value)));
  }
  template <unsigned I, class V>
  void array(const rankbus::Values<V>& values) {
    std::string list;
    for (std::size_t i = 0; i < values.size; ++i) {
      if (i > 0) list += ", ";
      list += std::to_string(rankbus::raw_value(values.data[i]));
    }
    add(I, "[" + list + "]");
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  rankbus::OpenOptions options;
  options.bus = argv[1];
  options.server = "d\xc3\xa9j\xc3\xa0-vu";  // Text that is not ASCII.
  options.model = "test-model";
  options.engine = 7;
  options.role = rankbus::Role::other;
  options.rank = 3;
  options.max_model_len = 4096;
  options.clock = rankbus::ClockDomain::virtual_time;
  options.segment_bytes = std::strtoull(argv[3], nullptr, 10);
  options.records[0] = rankbus::record_type<Everything>();
  options.records[1] = rankbus::record_type<Mark>();
  auto producer = rankbus::Producer::open(options);
  if (producer.inert()) return 1;

  Random random{42};
  std::vector<std::uint16_t> peers;
  for (int i = 0; i < 12; ++i)
    peers.push_back(producer.intern(("peer-" + std::to_string(i)).c_str()));
  peers.push_back(producer.intern("quote\" back\\slash \xe2\x82\xac"));
  const std::uint64_t records = std::strtoull(argv[2], nullptr, 10);
  for (std::uint64_t number = 0; number < records; ++number) {
    Call call = make_call(random, number, peers);
    call.record.latencies = call.latencies;
    call.record.sizes = call.sizes;
    call.record.expert_tokens = call.expert_tokens;
    producer.record(call.record);
    Mark mark;
    mark.stamp = call.record.stamp;
    mark.square = number * number;
    mark.low = static_cast<std::uint8_t>(number);
    producer.record(mark);
    Printer printer;
    Everything::RankbusRecord::visit(call.record, printer);
    std::printf("%s}\n", printer.text.c_str());
  }
  producer.status(77, 2, 5, 9);
  if (std::string(argv[4]) == "close") producer.close();
  std::printf("done\n");
  std::fflush(stdout);
  while (std::string(argv[4]) == "wait") pause();
  return 0;
}
