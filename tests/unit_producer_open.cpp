// A producer's public face: who it says it is, lanes, servers, the dictionary, record types of
// others, and being inert with a reason.
// Replay: unit_producer_open [--gtest_filter=...]; nothing here is random.
#include <array>
#include <numeric>
#include <rankbus/aggregator/reduce.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::FieldValues;
using rankbus::Labels;
using rankbus::OpenOptions;
using rankbus::Producer;
using rankbus::Role;

// Every variable that `open` looks at, unset.
class ProducerOpen : public testing::Test {
 protected:
  ProducerOpen() {
    for (const char* name : {"RANKBUS_SERVER", "POD_NAME", "RANKBUS_RUN_ID", "RANKBUS_BUS"}) {
      unset_.push_back(std::make_unique<Environment>(name, ""));
      unsetenv(name);
    }
  }
  OpenOptions options(Role role = Role::other) const {
    OpenOptions made = options_for(folder_.bus(), role);
    if (role == Role::other) made.records[0] = rankbus::record_type<llm_engine::Tile>();
    return made;
  }
  const std::string& bus() const { return folder_.bus(); }
  rankbus::bus::SegmentHeader header_of(const Producer& producer) const {
    return PublishedWords(bus(), producer.segment_name()).header();
  }
  FieldValues values_of(Producer& producer) const {
    const auto reader = open_segment(bus(), producer.segment_name());
    if (reader == nullptr) return {};
    while (reader->poll(false, {})) {
    }
    EXPECT_EQ(reader->error(), "");
    return rankbus::extract_values(*reader);
  }

  Folder folder_;
  std::vector<std::unique_ptr<Environment>> unset_;
};

TEST_F(ProducerOpen, NeverOpened_CountsWhatItDrops) {
  Producer producer;
  EXPECT_TRUE(producer.inert());
  for (int i = 0; i < 3; ++i) producer.record(tile(0));
  producer.status(1, 2, 3, 4);
  EXPECT_EQ(producer.intern("text"), 0);
  EXPECT_EQ(producer.dropped_records(), 3u);
  EXPECT_STREQ(producer.segment_name(), "");
  producer.close();
  producer.close();
}

TEST_F(ProducerOpen, Closed_IsInertAndSaysSo) {
  Producer producer = Producer::open(options());
  EXPECT_FALSE(producer.inert());
  EXPECT_STREQ(producer.reason(), "");
  const std::string name = producer.segment_name();
  producer.record(tile(0));
  producer.close();
  EXPECT_TRUE(producer.inert());
  EXPECT_NE(std::string(producer.reason()).find("closed"), std::string::npos);
  producer.record(tile(1));
  EXPECT_EQ(producer.dropped_records(), 1u);
  producer.close();
  const auto reader = open_segment(bus(), name);
  ASSERT_TRUE(reader && read_to_end(*reader));
  EXPECT_FALSE(reader->writer_is_alive());
  EXPECT_EQ(reader->streams()[0].published, 1u);
}

TEST_F(ProducerOpen, Moved_TheSegmentLivesOnInTheNewOne) {
  Producer first = Producer::open(options());
  const std::string name = first.segment_name();
  first.record(tile(0));
  Producer second = std::move(first);
  second.record(tile(1));
  std::vector<Producer> kept;
  kept.push_back(std::move(second));
  kept[0].record(tile(2));
  EXPECT_EQ(kept[0].segment_name(), name);
  const auto reader = open_segment(bus(), name);
  ASSERT_TRUE(reader);
  EXPECT_TRUE(reader->writer_is_alive());
  // Assigning another one ends it.
  kept[0] = Producer::open(options());
  EXPECT_FALSE(reader->writer_is_alive());
  EXPECT_NE(kept[0].segment_name(), name);
  ASSERT_TRUE(read_to_end(*reader));
  EXPECT_EQ(reader->streams()[0].published, 3u);
}

TEST_F(ProducerOpen, TypeThatWasNotDeclared_IsDroppedAlone) {
  Producer producer = Producer::open(options());
  producer.record(mark(0));
  producer.record(tile(0));
  EXPECT_EQ(producer.dropped_records(), 1u);
  EXPECT_FALSE(producer.inert());
  EXPECT_EQ(values_of(producer).at({"tile_a_total", {}}).bits, tile(0).a);
}

TEST_F(ProducerOpen, InertForAReason_SaysItOnceOnStderrUnlessQuiet) {
  OpenOptions bad = options();
  const std::string missing = folder_ / "no/such/place";
  bad.bus = missing.c_str();
  const auto said = [&] {
    testing::internal::CaptureStderr();
    {
      Producer producer = Producer::open(bad);
      EXPECT_TRUE(producer.inert());
      EXPECT_NE(std::string(producer.reason()).find(missing), std::string::npos);
      for (int i = 0; i < 1000; ++i) producer.record(tile(0));
      EXPECT_EQ(producer.dropped_records(), 1000u);
    }
    return testing::internal::GetCapturedStderr();
  };
  const std::string text = said();
  EXPECT_EQ(text.rfind("rankbus: this process records nothing: ", 0), 0u) << text;
  EXPECT_NE(text.find(missing), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  const Environment quiet("RANKBUS_QUIET", "1");
  EXPECT_EQ(said(), "");
}

TEST_F(ProducerOpen, Identity_IsInTheHeader) {
  OpenOptions given = options(Role::worker);
  given.server = "prod";
  given.model = "llama";
  given.engine = 3;
  given.kv_role = rankbus::KvRole::prefill;
  given.rank = rankbus::bus::kNoRank;
  given.axes[0] = {"tp", 3, 8};
  given.axes[1] = {"pp", 1, 2};
  given.axes[2] = {"dp", 3, 4};
  given.max_model_len = 4096;
  given.gpu = "H200 #3";
  given.run_id = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
  Producer producer = Producer::open(given);
  ASSERT_FALSE(producer.inert()) << producer.reason();
  const rankbus::bus::SegmentHeader header = header_of(producer);
  EXPECT_EQ(std::string(producer.segment_name()).rfind("worker-3-11.", 0), 0u);
  EXPECT_STREQ(header.server, "prod");
  EXPECT_EQ(header.server_named, 1u);
  EXPECT_STREQ(header.model, "llama");
  EXPECT_STREQ(header.gpu, "H200 #3");
  EXPECT_EQ(header.engine, 3u);
  EXPECT_EQ(header.rank, 8u + 3u);
  EXPECT_EQ(header.local_rank, 11u);
  EXPECT_EQ(header.world_size, 16u);
  EXPECT_EQ(header.axis_count, 3u);
  EXPECT_STREQ(header.axes[1].name, "pp");
  EXPECT_EQ(header.group_count, 3u);
  EXPECT_EQ(header.groups[2].size, 4u);
  EXPECT_EQ(header.max_model_len, 4096u);
  EXPECT_EQ(header.pid, static_cast<std::uint32_t>(getpid()));
  EXPECT_EQ(header.run_id[0], 0x0f);
  EXPECT_EQ(header.run_id[15], 0xf0);
  EXPECT_NE(header.time_namespace, 0u);
}

// Members of one group find the same id without talking; others another.
TEST_F(ProducerOpen, Groups_AreSharedByTheirMembersOnly) {
  const Environment run("RANKBUS_RUN_ID", "groups");
  const auto groups = [&](std::uint32_t engine, std::uint32_t tp, std::uint32_t pp,
                          std::uint32_t dp) {
    OpenOptions given = options(Role::worker);
    given.engine = engine;
    given.rank = rankbus::bus::kNoRank;
    given.axes[0] = {"tp", tp, 2};
    given.axes[1] = {"pp", pp, 2};
    given.axes[2] = {"dp", dp, 2};
    Producer producer = Producer::open(given);
    const rankbus::bus::SegmentHeader header = header_of(producer);
    return std::array<std::uint64_t, 3>{header.groups[0].id, header.groups[1].id,
                                        header.groups[2].id};
  };
  const auto base = groups(0, 0, 0, 0);
  EXPECT_EQ(groups(0, 1, 0, 0)[0], base[0]) << "tp peers share the tp group";
  EXPECT_NE(groups(0, 1, 0, 0)[1], base[1]) << "and not the pp group";
  EXPECT_EQ(groups(0, 0, 1, 0)[1], base[1]);
  EXPECT_NE(groups(0, 0, 1, 0)[0], base[0]);
  EXPECT_EQ(groups(1, 0, 0, 1)[2], base[2]) << "a dp group spans engines";
  EXPECT_NE(groups(1, 0, 0, 1)[0], base[0]);
  EXPECT_NE(base[0], base[1]);
}

TEST_F(ProducerOpen, TextsTooLong_AreCutBetweenCharacters) {
  OpenOptions given = options();
  // 126 letters, then a character of three bytes across the end of the field.
  const std::string model = std::string(126, 'm') + "\xe2\x82\xac";
  given.model = model.c_str();
  const std::string gpu(500, 'g');
  given.gpu = gpu.c_str();
  Producer producer = Producer::open(given);
  EXPECT_EQ(std::string(header_of(producer).model), std::string(126, 'm'));
  EXPECT_EQ(std::string(header_of(producer).gpu), std::string(63, 'g'));
}

TEST_F(ProducerOpen, ServerAndRun_ComeFromTheEnvironmentAndAreInherited) {
  {
    Producer producer = Producer::open(options());
    EXPECT_EQ(header_of(producer).server_named, 0u);
    const char* run = std::getenv("RANKBUS_RUN_ID");
    ASSERT_NE(run, nullptr) << "made, and handed to children";
    EXPECT_EQ(std::strlen(run), 32u);
    Producer second = Producer::open(options());
    EXPECT_EQ(std::memcmp(header_of(producer).run_id, header_of(second).run_id, 16), 0);
  }
  const Environment pod("POD_NAME", "pod-7");
  EXPECT_STREQ(header_of(Producer::open(options())).server, "pod-7");
  const Environment server("RANKBUS_SERVER", "blue");
  EXPECT_STREQ(header_of(Producer::open(options())).server, "blue");
  OpenOptions given = options();
  given.server = "green";
  EXPECT_STREQ(header_of(Producer::open(given)).server, "green");
}

TEST_F(ProducerOpen, DefaultSizes_AreKept) {
  struct Size {
    Role role;
    std::uint64_t most;
  };
  for (const Size size : {Size{Role::worker, 2 << 20}, Size{Role::scheduler, 512 << 10},
                          Size{Role::frontend, 512 << 10}}) {
    Producer producer = Producer::open(options(size.role));
    const std::uint64_t bytes = header_of(producer).segment_bytes;
    EXPECT_LE(bytes, size.most);
    EXPECT_GE(bytes, size.most / 4);
  }
}

TEST_F(ProducerOpen, Status_IsWhereTheProcessIs) {
  Producer producer = Producer::open(options());
  producer.status(0x01020304, 0x05, 0x0607, 0x08);
  std::ifstream file(bus() + "/" + producer.segment_name(), std::ios::binary);
  rankbus::bus::StatusLine line{};
  file.seekg(static_cast<std::streamoff>(header_of(producer).status_offset));
  file.read(reinterpret_cast<char*>(&line), sizeof line);
  EXPECT_EQ(line.where, 0x0102030405060708u);
  EXPECT_NE(line.stamp, 0u);
  EXPECT_EQ(line.closed, 0u);
}

// Lanes and servers.

// C-5
TEST_F(ProducerOpen, EqualIdentities_GetLanesInOrderAndReuseTheLowest) {
  Producer first = Producer::open(options());
  Producer second = Producer::open(options());
  EXPECT_EQ(first.lane(), 0u);
  EXPECT_EQ(second.lane(), 1u);
  first.close();
  Producer third = Producer::open(options());
  EXPECT_EQ(third.lane(), 0u) << "the dead have no lane";
  EXPECT_EQ(Producer::open(options()).lane(), 2u);
}

TEST_F(ProducerOpen, AnyDifferenceOfIdentity_IsLaneZero) {
  const Environment run("RANKBUS_RUN_ID", "lanes");
  std::vector<Producer> living;
  const auto lane_of = [&](auto&& change) {
    OpenOptions given = options();
    change(given);
    living.push_back(Producer::open(given));
    return living.back().lane();
  };
  EXPECT_EQ(lane_of([](OpenOptions&) {}), 0u);
  EXPECT_EQ(lane_of([](OpenOptions&) {}), 1u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.engine = 1; }), 0u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.rank = 1; }), 0u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.model = "another"; }), 0u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.role = Role::frontend; }), 0u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.server = "named"; }), 0u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.server = "other"; }), 0u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.run_id = "another run"; }), 0u);
  // What no series is labelled by does not tell processes apart; their lanes do.
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.axes[0] = {"tp", 1, 2}; }), 2u);
  EXPECT_EQ(lane_of([](OpenOptions& o) { o.kv_role = rankbus::KvRole::decode; }), 3u);
}

TEST_F(ProducerOpen, EightProcessesAtOnce_GetEightLanes) {
  const Environment run("RANKBUS_RUN_ID", "at once");
  const Shared<std::atomic<int>> waiting;
  std::vector<std::unique_ptr<Child>> children;
  children.reserve(8);
  for (int i = 0; i < 8; ++i) {
    children.push_back(std::make_unique<Child>([&](const Line& line) {
      ++*waiting;
      if (!wait_until([&] { return *waiting == 8; })) return 1;
      Producer producer = Producer::open(options());
      line.say(std::to_string(producer.lane()));
      (void)line.hear();
      return 0;
    }));
  }
  std::set<std::string> lanes;
  for (const auto& child : children) lanes.insert(child->hear());
  EXPECT_EQ(lanes, (std::set<std::string>{"0", "1", "2", "3", "4", "5", "6", "7"}));
}

// The labels of the series of a family, as /metrics would show them, with their values.
std::map<Labels, std::uint64_t> series_of(const rankbus::BusReader& bus,
                                          const std::string& family) {
  rankbus::FamilyBuilder builder;
  rankbus::reduce_records(bus, rankbus::collect_values(bus), now_s(), {}, builder);
  std::map<Labels, std::uint64_t> found;
  for (const rankbus::Family& each : builder.take()) {
    if (each.name != family) continue;
    for (const rankbus::Series& series : each.series) {
      found[series.labels] = std::get<std::uint64_t>(std::get<rankbus::Number>(series.value));
    }
  }
  return found;
}

TEST_F(ProducerOpen, TwoLanes_AddUpToTheirEngine) {
  Producer first = Producer::open(options());
  Producer second = Producer::open(options());
  for (std::uint64_t n = 0; n < 10; ++n) first.record(tally(n)), first.record(tile(n));
  for (std::uint64_t n = 0; n < 5; ++n) second.record(tile(n));
  std::uint64_t expected = 0;
  for (std::uint64_t n = 0; n < 10; ++n) expected += tile(n).a;
  for (std::uint64_t n = 0; n < 5; ++n) expected += tile(n).a;
  const auto reader = open_bus(bus(), false);
  ASSERT_TRUE(reader);
  full_pass(*reader);
  const Labels labels{{"engine", "0"}, {"model_name", "test-model"}};
  EXPECT_EQ(series_of(*reader, "tile_a_total"),
            (std::map<Labels, std::uint64_t>{{labels, expected}}));
  EXPECT_EQ(reader->identities().size(), 2u);
  first.close();
  second.close();
  full_pass(*reader);
  EXPECT_EQ(series_of(*reader, "tile_a_total").at(labels), expected) << "counters of the dead stay";
}

class TwoServers : public ProducerOpen, public testing::WithParamInterface<bool> {};

// Whether the aggregator was there first, or finds both.
TEST_P(TwoServers, NamedAndUnnamedOfOneModel_StayApart) {
  const bool aggregator_first = GetParam();
  std::vector<std::string> warnings;
  std::unique_ptr<rankbus::BusReader> reader;
  if (aggregator_first) {
    reader = open_bus(bus(), false, &warnings);
    ASSERT_TRUE(reader);
    full_pass(*reader);
  }
  std::vector<Producer> living;
  const auto serve = [&](const char* server, const char* run, std::uint64_t records) {
    OpenOptions given = options();
    given.server = server;
    given.run_id = run;
    living.push_back(Producer::open(given));
    ASSERT_FALSE(living.back().inert()) << living.back().reason();
    EXPECT_EQ(living.back().lane(), 0u);
    for (std::uint64_t n = 0; n < records; ++n) {
      llm_engine::Tile record = tile(n);
      record.a = 1;
      living.back().record(record);
    }
    if (reader) full_pass(*reader);
  };
  serve("blue", "run-a", 10);
  serve("green", "run-b", 20);
  serve("", "00000000000000000000000000000001", 30);
  serve("", "00000000000000000000000000000002", 40);
  if (!reader) {
    reader = open_bus(bus(), false, &warnings);
    ASSERT_TRUE(reader);
  }
  for (int pass = 0; pass < 3; ++pass) full_pass(*reader);
  const auto labels = [](const char* server) {
    Labels all{{"engine", "0"}, {"model_name", "test-model"}};
    if (server[0] != '\0') all.emplace_back("server", server);
    return all;
  };
  const std::map<Labels, std::uint64_t> expected{{labels("blue"), 10},
                                                 {labels("green"), 20},
                                                 {labels(""), 30},
                                                 {labels("00000000000000000000000000000002"), 40}};
  EXPECT_EQ(series_of(*reader, "tile_a_total"), expected);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("00000000000000000000000000000002"), std::string::npos);
  EXPECT_NE(warnings[0].find("RANKBUS_SERVER"), std::string::npos);
  // The first unnamed one ends and comes back under a new run: its series go on, nobody's change.
  living[2].close();
  serve("", "00000000000000000000000000000003", 5);
  full_pass(*reader);
  auto continued = expected;
  continued[labels("")] = 35;
  EXPECT_EQ(series_of(*reader, "tile_a_total"), continued);
  living.clear();
  full_pass(*reader);
  EXPECT_EQ(series_of(*reader, "tile_a_total"), continued);
}
INSTANTIATE_TEST_SUITE_P(AggregatorFirst, TwoServers, testing::Bool());

// The dictionary and label rows.

OpenOptions swap_options(const std::string& bus) {
  OpenOptions given = options_for(bus, Role::other);
  given.records[0] = rankbus::record_type<llm_engine::Swap>();
  return given;
}

// But for what is not UTF-8, which no exporter could show.
TEST_F(ProducerOpen, InternedTexts_ComeBackAsTheyWere) {
  Producer producer = Producer::open(swap_options(bus()));
  const std::vector<std::string> texts = {
      "plain",
      "with \"quotes\" and 'more'",
      "back\\slash\\",
      "two\nlines\r\n\ttab",
      "non-ASCII: \xc3\xa9\xe2\x82\xac\xf0\x9f\x9a\x80",
      "not UTF-8: \xff\xfe",
      "} 1\n# HELP injected_total",
      std::string(1024, 'x'),
      "exactly8",
      " ",
  };
  const auto shown = [](const std::string& text) {
    return text == "not UTF-8: \xff\xfe" ? "not UTF-8: \xef\xbf\xbd\xef\xbf\xbd" : text;
  };
  const auto reader = open_segment(bus(), producer.segment_name());
  ASSERT_TRUE(reader);
  std::vector<std::uint16_t> numbers;
  for (const std::string& text : texts) {
    numbers.push_back(producer.intern(text.c_str()));
    ASSERT_NE(numbers.back(), 0);
    // Texts are learnt with the records that bear them.
    producer.record(llm_engine::Swap{});
    reader->poll(false, [](const rankbus::Sample&) {});
    EXPECT_EQ(reader->dictionary_text(numbers.back()), shown(text))
        << "seen by a reader that was there";
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(producer.intern(texts[i].c_str()), numbers[i]) << "a text has one number";
  }
  EXPECT_EQ(producer.intern(std::string(1025, 'x').c_str()), 0) << "too long";
  EXPECT_EQ(producer.intern(nullptr), 0);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    llm_engine::Swap record;
    record.adapter = numbers[i];
    record.swapped_bytes = i + 1;
    producer.record(record);
  }
  const FieldValues values = values_of(producer);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto at = values.find({"engine_swapped_bytes_total", {{"adapter", shown(texts[i])}}});
    ASSERT_NE(at, values.end()) << texts[i];
    EXPECT_EQ(at->second.bits, i + 1);
  }
}

// C-9
TEST_F(ProducerOpen, DictionaryFull_FurtherTextsAreOther) {
  Producer by_entries = Producer::open(swap_options(bus()));
  std::uint32_t entries = 0;
  while (by_entries.intern(("short " + std::to_string(entries)).c_str()) != 0) {
    ASSERT_LT(++entries, 100'000u);
  }
  EXPECT_GE(entries, 200u);
  EXPECT_EQ(by_entries.intern("one more"), 0);
  EXPECT_EQ(by_entries.intern("short 0"), 1) << "what is there is still found";

  OpenOptions given = swap_options(bus());
  Producer by_text = Producer::open(given);
  std::uint32_t long_texts = 0;
  std::string text(1000, 'y');
  do {
    std::snprintf(text.data(), 9, "%08u", long_texts);
    text[8] = 'y';
  } while (by_text.intern(text.c_str()) != 0 && ++long_texts < 100'000);
  EXPECT_GE(long_texts, 10u);
  EXPECT_LT(long_texts, 100u);
  const auto reader = open_segment(bus(), by_text.segment_name());
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->dictionary_text(long_texts).size(), 1000u);
  // Records after it are whole: nothing was written past the dictionary.
  StreamModel<llm_engine::Swap> model;
  llm_engine::Swap record;
  record.stamp = 7;
  record.blocks = 3;
  for (int i = 0; i < 100; ++i) {
    by_text.record(record);
    model.add_call(record);
  }
  while (reader->poll(false, {})) {
  }
  EXPECT_TRUE(equals_model(reader->streams()[0], model));
}

// C-9
TEST_F(ProducerOpen, MoreLabelValuesThanRows_GoToOtherAndAreCounted) {
  Producer producer = Producer::open(swap_options(bus()));
  std::uint64_t all = 0;
  for (std::uint64_t i = 1; i <= 60; ++i) {
    llm_engine::Swap record;
    record.adapter = producer.intern(("adapter " + std::to_string(i)).c_str());
    ASSERT_NE(record.adapter, 0);
    record.swapped_bytes = i;
    record.draw = 1;
    producer.record(record);
    producer.record(record);
    all += 2 * i;
  }
  const auto reader = open_segment(bus(), producer.segment_name());
  ASSERT_TRUE(reader);
  while (reader->poll(false, {})) {
  }
  const rankbus::StreamCounts counts = rankbus::counts_of(reader->streams()[0]);
  const FieldValues values = rankbus::extract_values(*reader);
  std::uint64_t sum = 0, series = 0;
  for (const auto& [key, value] : values) {
    if (key.first != "engine_swapped_bytes_total") continue;
    sum += value.bits;
    ++series;
  }
  EXPECT_EQ(sum, all) << "what has no row of its own still counts";
  EXPECT_EQ(counts.label_overflow, 2 * (60 - (series - 1)));
  EXPECT_LT(series, 60u);
  const auto other = values.find({"engine_swapped_bytes_total", {{"adapter", "other"}}});
  ASSERT_NE(other, values.end());
  EXPECT_GT(other->second.bits, 0u);
}

// Nothing of the aggregator knows this type.
TEST_F(ProducerOpen, RecordTypeOfAForeignNamespace_FlowsToItsSeries) {
  Producer producer = Producer::open(swap_options(bus()));
  const double latencies[] = {0.02, 0.2, 2, 20, 200};
  const std::uint64_t sizes[] = {1, 2, 3, 4, 5, 6, 7};
  llm_engine::Swap record;
  record.stamp = 1;
  record.pool = llm_engine::Pool::large;
  record.adapter = producer.intern("lora \"x\"");
  record.tries = 3;
  record.blocks = 11;
  record.swapped_bytes = 4096;
  record.joules = 2.5;
  record.uptime_ns = 1'500'000'000;
  record.watts = 300.5;
  record.wait_ns = 2'500'000;
  record.latencies = latencies;
  record.sizes = sizes;
  producer.record(record);
  const FieldValues values = values_of(producer);
  const auto value = [&](const char* metric, const Labels& labels = {}) -> rankbus::FieldValue {
    const auto at = values.find({metric, labels});
    EXPECT_NE(at, values.end()) << metric;
    return at == values.end() ? rankbus::FieldValue{} : at->second;
  };
  EXPECT_EQ(value("engine_tries_total").bits, 3u);
  EXPECT_EQ(value("engine_blocks_total", {{"pool", "large"}}).bits, 11u);
  EXPECT_EQ(value("engine_blocks_total", {{"pool", "small"}}).bits, 0u) << "shown from the start";
  EXPECT_EQ(value("engine_swapped_bytes_total", {{"adapter", "lora \"x\""}}).bits, 4096u);
  EXPECT_EQ(double_of(value("engine_joules_total", {{"adapter", "lora \"x\""}}).bits), 2.5);
  EXPECT_EQ(std::get<double>(rankbus::exposed_number(value("engine_uptime_seconds_total"))), 1.5);
  EXPECT_EQ(std::get<double>(rankbus::exposed_number(value("engine_watts"))), 300.5);
  EXPECT_EQ(value("engine_sizes_total").bits, 28u);
  const rankbus::Histogram waits = rankbus::exposed_histogram(value("engine_wait_seconds"));
  EXPECT_EQ(waits.sum, 0.0025);
  EXPECT_EQ(waits.counts[1], 1u) << "2.5 ms is within 0.0025";
  const rankbus::Histogram took = rankbus::exposed_histogram(value("engine_latency_seconds"));
  EXPECT_EQ(took.sum, 0.02 + 0.2 + 2 + 20 + 200);
  EXPECT_EQ(std::accumulate(took.counts.begin(), took.counts.end(), std::uint64_t{0}), 5u);
  EXPECT_EQ(took.counts.back(), 1u);
}

// Declarations that no reader would accept never become a segment.

constexpr rankbus::bus::FieldSpec field(const char* name, rankbus::bus::FieldSpec spec = {}) {
  spec.name = name;
  return spec;
}
using Specs = rankbus::bus::SpecBuilders;

// The reason why a type of these fields cannot be opened, or empty.
std::string judged(const std::string& bus, const char* name,
                   const std::vector<rankbus::bus::FieldSpec>& fields) {
  static const char tag = 0;
  const Environment quiet("RANKBUS_QUIET", "1");
  const rankbus::bus::RecordType type{
      name, "help", fields.data(), static_cast<std::uint32_t>(fields.size()), 1, &tag};
  OpenOptions given = options_for(bus, Role::other);
  given.records[0] = &type;
  Producer producer = Producer::open(given);
  if (producer.inert()) return producer.reason();
  // What a producer accepts, its reader must accept too.
  EXPECT_TRUE(open_segment(bus, producer.segment_name())) << name;
  return {};
}

TEST_F(ProducerOpen, UnusableDeclarations_AreInertAndNameTheField) {
  using rankbus::bus::FieldSpec;
  using rankbus::bus::Type;
  const FieldSpec stamp = field("stamp", Specs::stamp());
  const auto expect_named = [&](const char* named, const char* type,
                                const std::vector<FieldSpec>& fields) {
    const std::string why = judged(bus(), type, fields);
    EXPECT_FALSE(why.empty()) << "accepted, though " << named << " is wrong";
    EXPECT_NE(why.find(named), std::string::npos) << why;
  };
  EXPECT_EQ(judged(bus(), "fine", {stamp, field("count", Specs::counter("fine_total"))}), "");
  EXPECT_EQ(judged(bus(), "samples_only", {stamp, field("x")}), "");
  expect_named("bad name", "bad name", {stamp});
  expect_named("record type", "", {stamp});
  expect_named("no_fields", "no_fields", {});
  expect_named("many", "many", std::vector<FieldSpec>(65, stamp));
  expect_named("a-b", "t", {stamp, field("a-b")});
  expect_named("metric", "t", {stamp, field("metric", Specs::counter("my-metric"))});
  expect_named("split", "t", {stamp, field("split", Specs::counter("x_total").split_by("nobody"))});
  expect_named(
      "split", "t",
      {stamp, field("other"), field("split", Specs::counter("x_total").split_by("other"))});
  expect_named("labelled", "t", {stamp, field("labelled", Specs::label("with:colon"))});
  expect_named("fixed", "t", {stamp, field("fixed", Specs::counter("x_total").with("a b", "c"))});
  FieldSpec narrow = field("narrow", Specs::counter("x_total"));
  narrow.capacity = 4;
  narrow.type = Type::u32;
  expect_named("narrow", "t", {stamp, narrow});
  FieldSpec many_labels = field("label_array", Specs::label("x"));
  many_labels.capacity = 4;
  expect_named("label_array", "t", {stamp, many_labels});
  FieldSpec wide = field("wide", Specs::counter("x_total"));
  wide.capacity = 512;
  expect_named("t", "t", {stamp, wide});
  static const double descending[] = {2, 1};
  expect_named(
      "bounds", "t",
      {stamp, field("d", Specs::distribution("d", rankbus::bus::bounds_of(descending, 0, 1)))});
  expect_named("t", "t",
               {stamp, field("l1", Specs::label("a")), field("l2", Specs::label("b")),
                field("l3", Specs::label("c")), field("l4", Specs::label("d")),
                field("l5", Specs::label("e"))});
  const std::string long_help(513, 'h');
  FieldSpec helped = field("helped");
  helped.help = long_help.c_str();
  expect_named("helped", "t", {stamp, helped});
  EXPECT_EQ(Directory(bus()).segments().size(), 2u) << "those of the two that are fine";
}

// Totals larger than any segment, or than what a producer keeps for itself.
TEST_F(ProducerOpen, TotalsBeyondEveryLimit_AreInertNotFatal) {
  const Environment budget("RANKBUS_BUDGET", "4G");
  const Environment quiet("RANKBUS_QUIET", "1");
  std::vector<rankbus::bus::FieldSpec> fields{field("stamp", Specs::stamp()),
                                              field("who", Specs::label("who"))};
  std::vector<std::string> names;
  names.reserve(60);
  static const double one[] = {1};
  for (int i = 0; i < 60; ++i) names.push_back("d" + std::to_string(i));
  for (const std::string& name : names) {
    fields.push_back(field(
        name.c_str(),
        Specs::distribution(name.c_str(), rankbus::bus::bounds_of(one, -30, 30)).split_by("who")));
  }
  static const char tags[16] = {};
  std::vector<rankbus::bus::RecordType> types;
  std::vector<std::string> type_names;
  types.reserve(16);
  type_names.reserve(16);
  for (int i = 0; i < 16; ++i) type_names.push_back("type" + std::to_string(i));
  for (std::size_t i = 0; i < 16; ++i) {
    types.push_back({type_names[i].c_str(), "help", fields.data(),
                     static_cast<std::uint32_t>(fields.size()), 1, &tags[i]});
  }
  for (const std::size_t count : {1U, 2U, 3U, 4U, 16U}) {
    OpenOptions given = options_for(bus(), Role::worker);
    for (std::size_t i = 0; i < count; ++i) given.records[i] = &types[i];
    Producer producer = Producer::open(given);
    producer.record(rankbus::WorkerStep{});
    if (producer.inert()) {
      EXPECT_STRNE(producer.reason(), "");
    } else {
      EXPECT_TRUE(open_segment(bus(), producer.segment_name())) << count;
    }
  }
}

}  // namespace
}  // namespace bus_test
