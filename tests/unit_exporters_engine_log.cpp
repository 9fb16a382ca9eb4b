// The lines beside the throughput line, word for word; when each is printed, and when it is not.
#include <cstdint>
#include <limits>
#include <string>

#include "unit_exporters_log_lib.hpp"

namespace rankbus::test {
namespace {

Number whole(std::uint64_t value) {
  return value;
}

// --- speculative decoding ---

TEST_F(EngineLogTest, SpecDecoding_PrintsVllmsWords) {
  engine(0).spec_decoding = SpecDecodingTotals{};
  log_.observe(snapshot_);
  pass_seconds(2);
  engine(0).generation_tokens = 5;
  engine(0).spec_decoding = SpecDecodingTotals{2, 6, 3, {2, 1, 0}};
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].substr(0, 16), "INFO Engine 000:");
  EXPECT_EQ(lines[1],
            "INFO SpecDecoding metrics: Mean acceptance length: 2.50, "
            "Accepted throughput: 1.50 tokens/s, Drafted throughput: 3.00 tokens/s, "
            "Accepted: 3 tokens, Drafted: 6 tokens, "
            "Per-position acceptance rate: 1.000, 0.500, 0.000, "
            "Avg Draft acceptance rate: 50.0%");
}

TEST_F(EngineLogTest, SpecDecoding_TellsTheIntervalOnly) {
  engine(0).spec_decoding = SpecDecodingTotals{100, 200, 100, {100, 0}};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).spec_decoding = SpecDecodingTotals{104, 208, 105, {104, 1}};
  EXPECT_EQ(log_those_with("Spec"),
            (Strings{"DEBUG SpecDecoding metrics: Mean acceptance length: 2.25, "
                     "Accepted throughput: 0.50 tokens/s, Drafted throughput: 0.80 tokens/s, "
                     "Accepted: 5 tokens, Drafted: 8 tokens, "
                     "Per-position acceptance rate: 1.000, 0.250, "
                     "Avg Draft acceptance rate: 62.5%"}));
}

TEST_F(EngineLogTest, SpecDecoding_WithoutNewDrafts_IsNotPrinted) {
  engine(0).spec_decoding = SpecDecodingTotals{1, 2, 1, {1, 0}};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).generation_tokens = 10;
  EXPECT_EQ(log_those_with("Spec"), Strings{});
}

TEST_F(EngineLogTest, SpecDecoding_AfterIdling_IsNotDiluted) {
  engine(0).spec_decoding = SpecDecodingTotals{};
  log_.observe(snapshot_);
  for (int i = 0; i < 100; ++i) {
    pass_seconds(10);
    log();
  }
  pass_seconds(10);
  engine(0).spec_decoding = SpecDecodingTotals{10, 20, 10, {10, 0}};
  const Strings lines = log_those_with("Spec");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("Accepted throughput: 1.00 tokens/s, Drafted throughput: 2.00 tokens/s"),
            std::string::npos)
      << lines[0];
}

TEST_F(EngineLogTest, SpecDecoding_WithoutDraftTokens_SaysNan) {
  engine(0).spec_decoding = SpecDecodingTotals{};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).spec_decoding = SpecDecodingTotals{2, 0, 0, {0}};
  const Strings lines = log_those_with("Spec");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("Mean acceptance length: 1.00, Accepted throughput: 0.00 tokens/s"),
            std::string::npos);
  EXPECT_NE(lines[0].find("Per-position acceptance rate: 0.000, Avg Draft acceptance rate: nan%"),
            std::string::npos)
      << lines[0];
}

TEST_F(EngineLogTest, SpecDecoding_DividesByTheEnginesOwnTime) {
  engine(0).virtual_clock = true;
  engine(0).clock_s = 100;
  engine(0).spec_decoding = SpecDecodingTotals{};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).spec_decoding = SpecDecodingTotals{4, 8, 4, {4}};
  EXPECT_EQ(log_those_with("Spec"), Strings{}) << "its clock stands still; they count later";
  pass_seconds(10);
  engine(0).clock_s = 104;
  const Strings lines = log_those_with("Spec");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("Accepted throughput: 1.00 tokens/s"), std::string::npos);
}

TEST_F(EngineLogTest, LastCountsUnderAStandingClock_AreToldWithoutRates) {
  engine(0).virtual_clock = true;
  engine(0).spec_decoding = SpecDecodingTotals{};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).spec_decoding = SpecDecodingTotals{4, 8, 4, {4}};
  engine(0).live = false;  // No later interval could tell them.
  const Strings lines = log_those_with("Spec");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("Accepted throughput: 0.00 tokens/s, Drafted throughput: 0.00 tokens/s, "
                          "Accepted: 4 tokens, Drafted: 8 tokens"),
            std::string::npos)
      << lines[0];
  pass_seconds(10);
  engine(0).live = true;
  engine(0).clock_s = 10;
  EXPECT_EQ(log_those_with("Spec"), Strings{}) << "once only";
}

TEST_F(EngineLogTest, SpecDecoding_OfSeveralEngines_IsPooled) {
  engine(0).spec_decoding = SpecDecodingTotals{};
  engine(1).spec_decoding = SpecDecodingTotals{};
  engine(2);
  log_.observe(snapshot_);
  pass_seconds(1);
  engine(0).spec_decoding = SpecDecodingTotals{1, 2, 2, {1, 1}};
  engine(1).spec_decoding = SpecDecodingTotals{3, 3, 0, {0, 0, 0}};
  const Strings lines = log_those_with("Spec");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[2],
            "DEBUG SpecDecoding metrics: Mean acceptance length: 1.50, "
            "Accepted throughput: 2.00 tokens/s, Drafted throughput: 5.00 tokens/s, "
            "Accepted: 2 tokens, Drafted: 5 tokens, "
            "Per-position acceptance rate: 0.250, 0.250, 0.000, Avg Draft acceptance rate: 40.0%");
}

TEST_F(EngineLogTest, Diffusion_TakesThePlaceOfSpecDecoding) {
  engine(0).diffusion = DiffusionTotals{};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).generation_tokens = 1200;
  engine(0).diffusion = DiffusionTotals{150, 4800, 1200};
  EXPECT_EQ(log_those_with("Decoding"),
            (Strings{"INFO DiffusionDecoding metrics: Committed token throughput: 120.00 tokens/s, "
                     "Mean denoising steps per canvas: 4.00, "
                     "Mean tokens committed per denoising step: 8.00, Committed: 1200 tokens, "
                     "Denoising steps: 150, Canvas positions evaluated: 4800"}));
  pass_seconds(10);
  EXPECT_EQ(log_those_with("Decoding"), Strings{}) << "nothing new";
  pass_seconds(10);
  engine(0).diffusion = DiffusionTotals{151, 4832, 1200};
  const Strings lines = log_those_with("Decoding");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("Mean denoising steps per canvas: nan, "
                          "Mean tokens committed per denoising step: 0.00"),
            std::string::npos);
}

// --- KV transfers ---

// S3-06, S3-07
TEST_F(EngineLogTest, OneConnector_PrintsNamesAndValues) {
  engine(0);
  interval(0).connectors = {{"nixl",
                             {{"Num successful transfers", whole(3)},
                              {"Avg xfer time (ms)", 14.0},
                              {"P90 xfer time (ms)", 18.4},
                              {"Avg post time (ms)", 1.333},
                              {"P90 post time (ms)", 1.8},
                              {"Avg MB per transfer", 64.0},
                              {"Throughput (MB/s)", 4571.429},
                              {"Avg number of descriptors", 42.7}}}};
  EXPECT_EQ(log_those_with("KV Transfer"),
            (Strings{"DEBUG KV Transfer metrics: Num successful transfers=3, "
                     "Avg xfer time (ms)=14.0, P90 xfer time (ms)=18.4, Avg post time (ms)=1.333, "
                     "P90 post time (ms)=1.8, Avg MB per transfer=64.0, "
                     "Throughput (MB/s)=4571.429, Avg number of descriptors=42.7"}));
  EXPECT_EQ(log_those_with("KV Transfer"), Strings{}) << "nothing was reported since";
}

TEST_F(EngineLogTest, SeveralConnectors_PrintAsMultiConnectorDoes) {
  engine(0);
  const std::vector<std::pair<std::string, Number>> one = {{"n", whole(1)}};
  interval(0).connectors = {{"nixl", {{"Num successful transfers", whole(3)}, {"Avg", 14.0}}},
                            {"moriio", one},
                            {"mooncake", one},
                            {"mooncake_store", one},
                            {"offloading", {{"bytes:('CPU_to_GPU',)", whole(5)}}},
                            {"hisparse", one},
                            {"mine", {{"it's \"so\" \\", std::int64_t{-2}}}}};
  EXPECT_EQ(log_those_with("KV Transfer"),
            (Strings{"DEBUG KV Transfer metrics: "
                     "NixlConnector={'Num successful transfers': 3, 'Avg': 14.0}, "
                     "MoRIIOConnector={'n': 1}, MooncakeConnector={'n': 1}, "
                     "MooncakeStoreConnector={'n': 1}, "
                     "OffloadingConnector={\"bytes:('CPU_to_GPU',)\": 5}, "
                     "HiSparseConnector={'n': 1}, mine={'it\\'s \"so\" \\\\': -2}"}));
}

TEST_F(EngineLogTest, OneReportOfSeveralConnectors_SaysWhoseItIs) {
  engine(0);
  interval(0).has_several_connectors = true;
  interval(0).connectors = {{"nixl", {{"n", whole(1)}}}};
  EXPECT_EQ(log_those_with("KV Transfer"),
            (Strings{"DEBUG KV Transfer metrics: NixlConnector={'n': 1}"}));
}

TEST_F(EngineLogTest, Numbers_PrintAsPythonPrintsThem) {
  engine(0);
  const double infinity = std::numeric_limits<double>::infinity();
  interval(0).connectors = {{"mine",
                             {{"a", 0.0},
                              {"b", -0.0},
                              {"c", 1e-5},
                              {"d", 0.0001},
                              {"e", 1e15},
                              {"f", 1e16},
                              {"g", 1.5e300},
                              {"h", 0.1 + 0.2},
                              {"i", 123456789.125},
                              {"j", infinity},
                              {"k", -infinity},
                              {"l", std::numeric_limits<double>::quiet_NaN()},
                              {"m", whole(18446744073709551615u)},
                              {"n", 9007199254740993.0}}}};
  EXPECT_EQ(log_those_with("KV Transfer"),
            (Strings{"DEBUG KV Transfer metrics: a=0.0, b=-0.0, c=1e-05, d=0.0001, "
                     "e=1000000000000000.0, f=1e+16, g=1.5e+300, h=0.30000000000000004, "
                     "i=123456789.125, j=inf, k=-inf, l=nan, m=18446744073709551615, "
                     "n=9007199254740992.0"}));
}

TEST_F(EngineLogTest, ConnectorsOfSeveralEngines_ArePrintedEachAndPooled) {
  engine(0);
  engine(1);
  interval(0).connectors = {{"nixl", {{"n", whole(1)}}}};
  interval(1).connectors = {{"nixl", {{"n", whole(2)}}}};
  interval(std::nullopt).connectors = {{"nixl", {{"n", whole(3)}}}};
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[1], "DEBUG KV Transfer metrics: n=1");
  EXPECT_EQ(lines[3], "DEBUG KV Transfer metrics: n=2");
  EXPECT_EQ(lines[4].substr(0, 27), "DEBUG 2 Engines Aggregated:");
  EXPECT_EQ(lines[5], "DEBUG KV Transfer metrics: n=3");
}

// --- CUDA graphs ---

TEST_F(EngineLogTest, CudaGraphs_PrintVllmsTable) {
  engine(0).cuda_graph_settings = CudaGraphSettings{"FULL_AND_PIECEWISE", "[1, 2, 4, 8]"};
  interval(0).cuda_graphs = {{7, 8, 1, "FULL", 120}, {300, 512, 212, "PIECEWISE", 4}};
  const Strings lines = log();
  EXPECT_EQ(Strings(lines.begin() + 1, lines.end()),
            (Strings{"DEBUG **CUDAGraph Config Settings:**", "DEBUG ",
                     "DEBUG - Mode: FULL_AND_PIECEWISE", "DEBUG - Capture sizes: [1, 2, 4, 8]",
                     "DEBUG ", "DEBUG **CUDAGraph Stats:**", "DEBUG ",
                     "DEBUG | Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode | "
                     "Count |",
                     "DEBUG |-----------------|---------------|--------------|--------------|"
                     "-------|",
                     "DEBUG | 7               | 8             | 1            | FULL         | "
                     "120   |",
                     "DEBUG | 300             | 512           | 212          | PIECEWISE    | "
                     "4     |",
                     "DEBUG "}));
  EXPECT_EQ(log().size(), 1u) << "no batch since";
}

TEST_F(EngineLogTest, CudaGraphs_WidestCellSetsTheColumn) {
  engine(0);
  interval(0).cuda_graphs = {{1, 1, 0, "a mode of many words \u00e4", 12345678}};
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 7u) << "settings that nobody told are left out";
  EXPECT_EQ(lines[1], "DEBUG **CUDAGraph Stats:**");
  EXPECT_EQ(lines[3],
            "DEBUG | Unpadded Tokens | Padded Tokens | Num Paddings | Runtime Mode           | "
            "Count    |");
  EXPECT_EQ(lines[4],
            "DEBUG |-----------------|---------------|--------------|------------------------|"
            "----------|");
  EXPECT_EQ(
      lines[5],
      "DEBUG | 1               | 1             | 0            | a mode of many words \u00e4 | "
      "12345678 |");
}

TEST_F(EngineLogTest, CudaGraphsOfSeveralEngines_ArePooledUnderTheirSettings) {
  engine(0);
  engine(1).cuda_graph_settings = CudaGraphSettings{"FULL", "[1]"};
  interval(std::nullopt).cuda_graphs = {{7, 8, 1, "FULL", 3}};
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 3u + 11u);
  EXPECT_EQ(lines[5], "DEBUG - Mode: FULL");
}

// --- model flops ---

TEST_F(EngineLogTest, Perf_PrintsRatesOfTheInterval) {
  engine(3).perf = PerfTotals{1, 2, 3};
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(3).generation_tokens = 1;
  engine(3).perf =
      PerfTotals{1 + 3'124'000'000'000'000, 2 + 18'000'000'000'000, 3 + 930'000'000'000};
  EXPECT_EQ(log_those_with("MFU"),
            (Strings{"INFO Engine 003: MFU: 312.4 TF/s/GPU 1893.0 GB/s/GPU"}));
  pass_seconds(10);
  EXPECT_EQ(log_those_with("MFU"), Strings{}) << "all sums are 0";
  pass_seconds(10);
  ++engine(3).perf->write_bytes;
  EXPECT_EQ(log_those_with("MFU"), (Strings{"DEBUG Engine 003: MFU: 0.0 TF/s/GPU 0.0 GB/s/GPU"}));
}

TEST_F(EngineLogTest, Perf_IsNeverAggregated) {
  engine(0).perf = PerfTotals{};
  engine(1).perf = PerfTotals{};
  log_.observe(snapshot_);
  pass_seconds(1);
  engine(0).perf = PerfTotals{1'000'000'000'000, 0, 0};
  engine(1).perf = PerfTotals{2'000'000'000'000, 0, 0};
  EXPECT_EQ(log_those_with("MFU"), (Strings{"DEBUG Engine 000: MFU: 1.0 TF/s/GPU 0.0 GB/s/GPU",
                                            "DEBUG Engine 001: MFU: 2.0 TF/s/GPU 0.0 GB/s/GPU"}));
}

// --- order and level ---

TEST_F(EngineLogTest, FiveKindsOfLines_StandInVllmsOrderAtOneLevel) {
  engine(0).spec_decoding = SpecDecodingTotals{};
  engine(0).perf = PerfTotals{};
  log_.observe(snapshot_);
  const auto log_heads = [&] {
    ++engine(0).spec_decoding->drafts;
    ++engine(0).perf->flops;
    interval(0).connectors = {{"nixl", {{"n", whole(1)}}}};
    interval(0).cuda_graphs = {{1, 1, 0, "FULL", 1}};
    pass_seconds(10);
    Strings heads;
    for (const std::string& line : log()) heads.push_back(line.substr(0, 22));
    return heads;
  };
  const auto heads_at = [](const std::string& level) {
    Strings heads;
    for (const std::string text :
         {"Engine 000: Avg prompt throughput", "SpecDecoding metrics", "KV Transfer metrics: n=1",
          "**CUDAGraph Stats:**", "", "| Unpadded Tokens", "|-----------------|",
          "| 1              ", "", "Engine 000: MFU: 0.0 TF/s/GPU"}) {
      heads.push_back((level + text).substr(0, 22));
    }
    return heads;
  };
  engine(0).generation_tokens = 1;
  EXPECT_EQ(log_heads(), heads_at("INFO "));
  EXPECT_EQ(log_heads(), heads_at("INFO ")) << "tokens flowed in the interval before";
  EXPECT_EQ(log_heads(), heads_at("DEBUG "));
}

TEST_F(EngineLogTest, SeveralServers_EachLineSaysWhoseItIs) {
  for (const std::string server : {"k1", "k2"}) {
    engine(0, server).server_label = server == "k1" ? "chat" : "code";
    engine(0, server).spec_decoding = SpecDecodingTotals{};
    engine(0, server).perf = PerfTotals{};
  }
  log_.observe(snapshot_);
  pass_seconds(1);
  engine(0, "k2").spec_decoding = SpecDecodingTotals{1, 1, 1, {1}};
  engine(0, "k2").perf = PerfTotals{1, 0, 0};
  engine(0, "k2").num_gpu_blocks = "12";
  interval(0, "k2").connectors = {{"nixl", {{"n", whole(1)}}}};
  interval(0, "k2").cuda_graphs = {{1, 1, 0, "FULL", 1}};
  snapshot_.iterations.resize(1);
  snapshot_.iterations[0].server = "k2";
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 2u + 1u + 1u + 1u + 1u + 6u + 1u);
  for (const std::string& line : lines) {
    const bool is_first_server = line.find("Server chat: ") != std::string::npos;
    EXPECT_TRUE(is_first_server || line.find("Server code: ") != std::string::npos) << line;
  }
}

// --- starts ---

TEST_F(EngineLogTest, Start_IsToldOnceAtDebug) {
  engine(0);
  EXPECT_EQ(observe(), Strings{});
  engine(0).num_gpu_blocks = "1234";
  EXPECT_EQ(observe(),
            (Strings{"DEBUG Engine 000: vllm cache_config_info with initialization after "
                     "num_gpu_blocks is: 1234"}));
  EXPECT_EQ(observe(), Strings{});
  EXPECT_EQ(log().size(), 1u);
  engine(0).num_gpu_blocks = "1240";
  EXPECT_EQ(observe().size(), 1u) << "another start";
}

TEST_F(EngineLogTest, StartWithoutBlocks_IsNotTold) {
  for (const std::string blocks : {"", "0", "None"}) {
    engine(0).num_gpu_blocks = blocks;
    engine(1).num_gpu_blocks = blocks;
    EXPECT_EQ(observe(), Strings{});
    EXPECT_EQ(log_those_with("cache_config_info"), Strings{});
  }
}

TEST_F(EngineLogTest, StartOfSeveralEngines_IsToldOnceAllHaveBlocks) {
  const std::string words = " vllm cache_config_info with initialization after num_gpu_blocks is: ";
  engine(0).num_gpu_blocks = "1234";
  engine(1);
  EXPECT_EQ(log_those_with("cache_config"), (Strings{"DEBUG Engine 000:" + words + "1234"}));
  engine(1).num_gpu_blocks = "1234";
  EXPECT_EQ(log_those_with("cache_config"),
            (Strings{"DEBUG Engine 001:" + words + "1234", "INFO 2 Engines:" + words + "1234"}));
  EXPECT_EQ(log_those_with("cache_config"), Strings{});
  engine(2).num_gpu_blocks = "1300";
  EXPECT_EQ(log_those_with("cache_config"), (Strings{"DEBUG Engine 002:" + words + "1300",
                                                     "INFO 3 Engines:" + words + "1234, 1300"}));
  engine(2).live = false;
  EXPECT_EQ(log_those_with("cache_config"), Strings{});
  EXPECT_EQ(log_those_with("cache_config"), Strings{}) << "that fewer are left is no start";
}

// --- iterations ---

TEST_F(EngineLogTest, Iteration_IsPrintedAtOnceAtInfo) {
  engine(0);
  snapshot_.iterations = {{"k1", 0, 42, 1, 512, 3, 3, 2, 1152, 12.345678, 0.25, false}};
  EXPECT_EQ(observe(),
            (Strings{"INFO Engine 000: Iteration(42): 1 context requests, 512 context tokens, "
                     "3 generation requests, 3 generation tokens, "
                     "iteration elapsed time: 12.35 ms, GPU KV cache usage: 25.0%, "
                     "encoder inputs: 2, encoder output embeddings: 1152"}));
}

TEST_F(EngineLogTest, DummyIteration_SaysSoAndHasNoEncoderPart) {
  engine(0);
  engine(1);
  snapshot_.iterations = {{"k1", 1, 7, 0, 0, 0, 0, 0, 9, 1, 0, true}};
  const Strings lines = log();
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0],
            "INFO Engine 001: Iteration(7): 0 context requests, 0 context tokens, "
            "0 generation requests, 0 generation tokens, "
            "iteration elapsed time: 1.00 ms (dummy), GPU KV cache usage: 0.0%");
}

TEST_F(EngineLogTest, IterationsOfAnEngineThatIsGone_AreStillPrinted) {
  snapshot_.iterations.resize(2);
  EXPECT_EQ(observe().size(), 2u);
}

// --- strangers ---

// C-24
TEST_F(EngineLogTest, HostileTexts_StayOnTheirLineAndHarmless) {
  const std::string evil =
      "x\nINFO forged\x1B[31m\x9B"
      "2J\u202E";
  engine(0).num_gpu_blocks = evil;
  engine(0).cuda_graph_settings = CudaGraphSettings{evil, evil};
  interval(0).cuda_graphs = {{1, 1, 0, evil, 1}};
  interval(0).connectors = {{evil, {{evil, whole(1)}}}, {"\xFF", {{"\xFF", whole(1)}}}};
  Strings lines = log();
  interval(0).connectors = {{evil, {{evil, whole(1)}}}};
  for (std::string& line : log()) lines.push_back(std::move(line));
  ASSERT_EQ(lines.size(), 1u + 1u + 1u + 11u + 2u);
  for (const std::string& line : lines) {
    for (const char c : line) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << line;
    EXPECT_EQ(line.find("[31m"), std::string::npos) << line;
    EXPECT_EQ(line.find("\u202E"), std::string::npos) << line;
    EXPECT_EQ(line.find('\xFF'), std::string::npos) << line;
  }
}

// C-24
TEST_F(EngineLogTest, HostileNumbers_PrintWithoutHarm) {
  constexpr auto kHuge = std::numeric_limits<std::uint64_t>::max();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  engine(0).spec_decoding = SpecDecodingTotals{};
  engine(0).perf = PerfTotals{};
  engine(0).corrupted = 0;
  log_.observe(snapshot_);
  pass_seconds(1e-9);
  engine(0).spec_decoding = SpecDecodingTotals{kHuge, kHuge, kHuge, {kHuge}};
  engine(0).perf = PerfTotals{1e308, 1e308, 1e308};
  engine(0).corrupted = kHuge;
  snapshot_.iterations = {{"k1", 0, kHuge, kHuge, kHuge, kHuge, kHuge, kHuge, kHuge, nan, -nan}};
  for (const std::string& line : log()) {
    EXPECT_EQ(line.find("inf"), std::string::npos) << line;
    EXPECT_EQ(line.find("nan"), std::string::npos) << line;
  }
}

}  // namespace
}  // namespace rankbus::test
