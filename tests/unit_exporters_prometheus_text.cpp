// The exposition, against golden text. Somebody else's parsers read it in
// unit_exporters_read_back.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <rankbus/exporters/number_text.hpp>

#include "unit_exporters_lib.hpp"

namespace rankbus::test {
namespace {

std::string le(double bound) {
  std::string text;
  append_le(bound, text);
  return text;
}

std::string number(Number value) {
  std::string text;
  append_number(value, text);
  return text;
}

std::string label_value(std::string value) {
  const std::string text = render(snapshot({family(
      "a", "h", FamilyType::gauge, {series({{"l", std::move(value)}}, Number(std::int64_t{1}))})}));
  const std::string before = "# HELP a h\n# TYPE a gauge\na{l=\"";
  const std::string after = "\"} 1\n";
  EXPECT_EQ(text.substr(0, before.size()), before);
  EXPECT_EQ(text.substr(text.size() - after.size()), after);
  return text.substr(before.size(), text.size() - before.size() - after.size());
}

TEST(PrometheusText, EmptySnapshot_RendersNothing) {
  EXPECT_EQ(render(Snapshot{}), "");
}

TEST(PrometheusText, RenderedTwice_IsAppended) {
  const Snapshot shown = snapshot(
      {family("a", "h", FamilyType::gauge, {series({}, Number(std::int64_t{-1}), "", "")})});
  std::string text = "before\n";
  render_prometheus_text(shown, {}, text);
  EXPECT_EQ(text, "before\n# HELP a h\n# TYPE a gauge\na -1\n");
}

TEST(PrometheusText, EveryType_MatchesGoldenText) {
  EXPECT_EQ(render(mixed_snapshot()), R"(# HELP rankbus_passes_total Passes over the bus.
# TYPE rankbus_passes_total counter
rankbus_passes_total 7
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="llama",server="chat"} 9007199254740993
vllm:generation_tokens_total{engine="1",model_name="llama",server="chat"} 20
vllm:generation_tokens_total{engine="0",model_name="l\"l\\a\nmä 你好"} 30
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="llama",server="chat"} 0.1
vllm:kv_cache_usage_perc{engine="1",model_name="llama",server="chat"} 1
# HELP vllm:time_to_first_token_seconds Line 1\nback\\slash "quoted"
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="llama",server="chat"} 3
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="llama",server="chat"} 3
vllm:time_to_first_token_seconds_bucket{engine="0",le="2.5",model_name="llama",server="chat"} 5
vllm:time_to_first_token_seconds_bucket{engine="0",le="1e+06",model_name="llama",server="chat"} 6
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="llama",server="chat"} 10
vllm:time_to_first_token_seconds_sum{engine="0",model_name="llama",server="chat"} 2000123.25
vllm:time_to_first_token_seconds_count{engine="0",model_name="llama",server="chat"} 10
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="l\"l\\a\nmä 你好"} 0
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="l\"l\\a\nmä 你好"} 0
vllm:time_to_first_token_seconds_bucket{engine="0",le="2.5",model_name="l\"l\\a\nmä 你好"} 0
vllm:time_to_first_token_seconds_bucket{engine="0",le="1e+06",model_name="l\"l\\a\nmä 你好"} 0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="l\"l\\a\nmä 你好"} 0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="l\"l\\a\nmä 你好"} 0
vllm:time_to_first_token_seconds_count{engine="0",model_name="l\"l\\a\nmä 你好"} 0
)");
}

TEST(PrometheusText, LeLabel_StandsInItsSortedPlace) {
  const auto line = [](Labels labels) {
    const std::string text =
        render(snapshot({family("h", "x", FamilyType::histogram,
                                {series(std::move(labels), Histogram{bounds({}), {4}, 1.5})})}));
    const std::string header = "# HELP h x\n# TYPE h histogram\n";
    return text.substr(header.size());
  };
  EXPECT_EQ(line({}), "h_bucket{le=\"+Inf\"} 4\nh_sum 1.5\nh_count 4\n");
  EXPECT_EQ(line({{"lane", "1"}}),
            "h_bucket{lane=\"1\",le=\"+Inf\"} 4\nh_sum{lane=\"1\"} 1.5\nh_count{lane=\"1\"} 4\n");
  EXPECT_EQ(line({{"rank", "1"}}),
            "h_bucket{le=\"+Inf\",rank=\"1\"} 4\nh_sum{rank=\"1\"} 1.5\nh_count{rank=\"1\"} 4\n");
}

TEST(PrometheusText, FamiliesWithDifferentBounds_KeepTheirOwn) {
  const Histogram two{bounds({1, 2}), {1, 1, 1}, 0};
  const Histogram one{bounds({5}), {1, 1}, 0};
  const std::string text = render(snapshot(
      {family("a", "x", FamilyType::histogram, {series({}, two), series({{"z", "1"}}, one)})}));
  EXPECT_NE(text.find("a_bucket{le=\"2.0\"} 2\na_bucket{le=\"+Inf\"} 3\n"), std::string::npos);
  EXPECT_NE(text.find("a_bucket{le=\"5.0\",z=\"1\"} 1\na_bucket{le=\"+Inf\",z=\"1\"} 2\n"),
            std::string::npos);
}

// C-24
TEST(PrometheusText, LabelValue_IsEscaped) {
  EXPECT_EQ(label_value("plain"), "plain");
  EXPECT_EQ(label_value(""), "");
  EXPECT_EQ(label_value("\\\"\n"), "\\\\\\\"\\n");
  EXPECT_EQ(label_value("tab\tand\rreturn"), "tab\tand\rreturn");
  EXPECT_EQ(label_value("a,b={c}"), "a,b={c}");
}

// C-24
TEST(PrometheusText, InvalidUtf8_BecomesReplacementCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(label_value("\u00e4\u4f60\U0001F600\U0010FFFF"), "\u00e4\u4f60\U0001F600\U0010FFFF");
  EXPECT_EQ(label_value("a\xFFz"), "a" + r + "z");
  EXPECT_EQ(label_value("\x80"), r) << "continuation without a lead";
  EXPECT_EQ(label_value("\xC0\xAF"), r + r) << "overlong";
  EXPECT_EQ(label_value("\xE0\x80\x80"), r + r + r) << "overlong";
  EXPECT_EQ(label_value("\xED\xA0\x80"), r + r + r) << "surrogate";
  EXPECT_EQ(label_value("\xF4\x90\x80\x80"), r + r + r + r) << "above U+10FFFF";
  EXPECT_EQ(label_value("\xE4\xBD"), r) << "cut off at the end";
  EXPECT_EQ(label_value("\xE4\xBD\""), r + "\\\"") << "cut off before a quote";
  EXPECT_EQ(label_value("\xF0\x9F\x98\n"), r + "\\n") << "cut off before a newline";
}

TEST(PrometheusText, Filter_ShowsOneServerOrEngine) {
  const Snapshot shown = mixed_snapshot();
  const auto lines = [&](const SeriesFilter& filter) {
    std::vector<std::string> found;
    std::istringstream text(render(shown, filter));
    for (std::string line; std::getline(text, line);) {
      if (line.rfind("vllm:generation", 0) == 0 || line.rfind("rankbus", 0) == 0) {
        found.push_back(line);
      }
    }
    return found;
  };
  const std::string chat0 =
      R"(vllm:generation_tokens_total{engine="0",model_name="llama",server="chat"} 9007199254740993)";
  const std::string chat1 =
      R"(vllm:generation_tokens_total{engine="1",model_name="llama",server="chat"} 20)";
  const std::string other =
      R"(vllm:generation_tokens_total{engine="0",model_name="l\"l\\a\nmä 你好"} 30)";
  using Lines = std::vector<std::string>;
  EXPECT_EQ(lines({}), (Lines{"rankbus_passes_total 7", chat0, chat1, other}));
  EXPECT_EQ(lines({"chat", {}}), (Lines{chat0, chat1})) << "by label";
  EXPECT_EQ(lines({"k1", {}}), (Lines{chat0, chat1})) << "by key";
  EXPECT_EQ(lines({"k2", {}}), (Lines{other}));
  EXPECT_EQ(lines({{}, "0"}), (Lines{chat0, other}));
  EXPECT_EQ(lines({"chat", "1"}), (Lines{chat1}));
  EXPECT_EQ(render(shown, {"nobody", {}}), "") << "families without series are left out";
  EXPECT_EQ(render(shown, {"k2", {}}).find("kv_cache_usage"), std::string::npos);
}

TEST(PrometheusText, LeValue_PrintsAsThePythonClientDoes) {
  EXPECT_EQ(le(1), "1.0");
  EXPECT_EQ(le(0), "0.0");
  EXPECT_EQ(le(0.005), "0.005");
  EXPECT_EQ(le(0.0001), "0.0001");
  EXPECT_EQ(le(1e-5), "1e-05");
  EXPECT_EQ(le(2.5), "2.5");
  EXPECT_EQ(le(131072), "131072.0");
  EXPECT_EQ(le(999999), "999999.0");
  EXPECT_EQ(le(1e6), "1e+06");
  EXPECT_EQ(le(2097152), "2.097152e+06");
  EXPECT_EQ(le(1.5e8), "1.5e+08");
  EXPECT_EQ(le(8589934592), "8.589934592e+09");
  EXPECT_EQ(le(1e10), "1e+010");
  EXPECT_EQ(le(1e16), "1e+16");
  EXPECT_EQ(le(-2097152), "-2097152.0");
  EXPECT_EQ(le(std::numeric_limits<double>::infinity()), "+Inf");
  EXPECT_EQ(le(-std::numeric_limits<double>::infinity()), "-Inf");
  EXPECT_EQ(le(std::nan("")), "NaN");
}

TEST(PrometheusText, Number_PrintsExactly) {
  EXPECT_EQ(number(std::uint64_t{0}), "0");
  EXPECT_EQ(number(std::uint64_t{1000000}), "1000000");
  EXPECT_EQ(number(std::numeric_limits<std::uint64_t>::max()), "18446744073709551615");
  EXPECT_EQ(number(std::numeric_limits<std::int64_t>::min()), "-9223372036854775808");
  EXPECT_EQ(number(1e6), "1000000") << "a whole double needs no exponent up to 2^53";
  EXPECT_EQ(number(9007199254740992.0), "9007199254740992");
  EXPECT_EQ(number(1e300), "1e+300");
  EXPECT_EQ(number(0.1), "0.1");
  EXPECT_EQ(number(-0.0), "-0");
  EXPECT_EQ(number(1.0 / 3), "0.3333333333333333");
  EXPECT_EQ(number(std::nan("")), "NaN");
  EXPECT_EQ(number(std::numeric_limits<double>::infinity()), "+Inf");
  EXPECT_EQ(number(-std::numeric_limits<double>::infinity()), "-Inf");
}

}  // namespace
}  // namespace rankbus::test
