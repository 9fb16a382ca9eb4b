// Goal: the exposition means to other programs what it means to us.
// Method: Debian's Python client and promtool read what the renderer wrote; each reader is first
// shown to refuse something.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <rankbus/exporters/number_text.hpp>
#include <string_view>

#include "unit_exporters_lib.hpp"

namespace rankbus::test {
namespace {

std::string hexadecimal(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%a", value);
  return text;
}

double as_double(const Number& value) {
  return std::visit([](auto number) { return static_cast<double>(number); }, value);
}

// What a parser must find, computed here without the renderer.
nlohmann::json expected_samples(const Snapshot& shown) {
  auto samples = nlohmann::json::array();
  for (const Family& family : shown.families) {
    for (const Series& one : family.series) {
      auto labels = nlohmann::json::object();
      for (const auto& [name, value] : one.labels) labels[name] = value;
      const auto add = [&](const std::string& suffix, const nlohmann::json& with, double value) {
        samples.push_back({family.name + suffix, with, hexadecimal(value)});
      };
      if (const auto* number = std::get_if<Number>(&one.value)) {
        add("", labels, as_double(*number));
        continue;
      }
      const auto& histogram = std::get<Histogram>(one.value);
      std::uint64_t cumulative = 0;
      for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
        cumulative += histogram.counts[i];
        auto with_le = labels;
        std::string text = "+Inf";
        if (i < histogram.bounds->size()) {
          text.clear();
          append_le((*histogram.bounds)[i], text);
        }
        with_le["le"] = text;
        add("_bucket", with_le, static_cast<double>(cumulative));
      }
      add("_sum", labels, histogram.sum);
      add("_count", labels, static_cast<double>(cumulative));
    }
  }
  return samples;
}

bool is_installed(const std::string& probe) {
  return std::system((probe + " >/dev/null 2>&1").c_str()) == 0;
}

class PythonClient : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_installed("/usr/bin/python3 -c 'import prometheus_client'")) {
      GTEST_SKIP() << "skipped: no Python Prometheus client (package python3-prometheus-client)";
    }
  }

  std::pair<int, std::string> read_back(const std::string& arguments) {
    const std::filesystem::path tests = std::filesystem::path(__FILE__).parent_path();
    return run_command("/usr/bin/python3 -B '" + (tests / "unit_exporters_read_back.py").string() +
                           "' " + arguments,
                       dir_);
  }

  void expect_read_back(const Snapshot& shown) {
    const nlohmann::json expected = expected_samples(shown);
    write_file(dir_ / "text", render(shown));
    write_file(dir_ / "expected", expected.dump());
    const auto [status, output] =
        read_back("exposition '" + (dir_ / "text") + "' '" + (dir_ / "expected") + "'");
    EXPECT_EQ(status, 0) << output;
    EXPECT_EQ(output, std::to_string(expected.size()) + " samples\n");
  }

  TempDir dir_;
};

TEST_F(PythonClient, MixedSnapshot_ReadsBackTheSame) {
  expect_read_back(mixed_snapshot());
}

TEST_F(PythonClient, ExtremeNumbers_ReadBackTheSame) {
  std::vector<Series> all;
  const auto add = [&](Number value) {
    all.push_back(series({{"i", std::to_string(all.size())}}, value));
  };
  add(std::numeric_limits<std::uint64_t>::max());
  add(std::numeric_limits<std::int64_t>::min());
  add(std::uint64_t{9007199254740993});
  for (const double value :
       {std::nan(""), std::numeric_limits<double>::infinity(),
        -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::denorm_min(),
        std::numeric_limits<double>::max(), -0.0, 0.1 + 0.2, 1e15, 1e16, 1e17}) {
    add(value);
  }
  expect_read_back(snapshot({family("n", "Numbers.", FamilyType::gauge, all)}));
}

// C-24
TEST_F(PythonClient, EveryLabelText_ReadsBackTheSame) {
  std::vector<Series> all;
  for (const std::string_view text :
       {"", "\"", "\\", "\n", "\\n", "\\\"", "a\\", "\\\\\"", "tab\t", "{a=\"b\"}", ",", "=", " # ",
        "\u00e4", "\u4f60\u597d", "\U0001F600", "\u0085", "\u2028", "\x01\x7F"}) {
    all.push_back(series({{"i", std::to_string(all.size())}, {"text", std::string(text)}},
                         Number(std::uint64_t{1})));
  }
  expect_read_back(snapshot({family("t", "Texts.", FamilyType::gauge, all)}));
}

TEST_F(PythonClient, InvalidUtf8_IsDecodable) {
  Snapshot shown = snapshot({family("t", "Broken \xFF help.", FamilyType::gauge,
                                    {series({{"text", "\xC3(\xE4\xBD"}}, Number(0.5))})});
  write_file(dir_ / "text", render(shown));
  write_file(dir_ / "expected", R"([["t", {"text": "\ufffd(\ufffd"}, "0x1p-1"]])");
  const auto [status, output] =
      read_back("exposition '" + (dir_ / "text") + "' '" + (dir_ / "expected") + "'");
  EXPECT_EQ(status, 0) << output;
}

TEST_F(PythonClient, WrongNumber_IsNoticed) {
  write_file(dir_ / "text", "a 1\n");
  write_file(dir_ / "expected", R"([["a", {}, "0x1.8p+0"]])");
  EXPECT_NE(read_back("exposition '" + (dir_ / "text") + "' '" + (dir_ / "expected") + "'").first,
            0);
}

TEST_F(PythonClient, LeOfRandomNumbers_PrintsTheSame) {
  // A fixed seed, so that a failure repeats: rerun this test.
  std::mt19937_64 random(20240607);
  std::string lines;
  const auto add = [&](double value) {
    if (std::isnan(value)) return;  // One NaN is tested elsewhere; a hex NaN has a sign.
    lines += hexadecimal(value) + " ";
    append_le(value, lines);
    lines += '\n';
  };
  for (int i = 0; i < 20000; ++i) add(std::bit_cast<double>(random()));
  for (int exponent = -8; exponent <= 18; ++exponent) {
    for (int i = 0; i < 300; ++i) {
      const double digits = static_cast<double>(random() % 1000000);
      add(digits * std::pow(10.0, exponent - 5));
      add(-digits * std::pow(10.0, exponent - 5));
      add(std::pow(10.0, exponent) * (1 + static_cast<double>(i % 9)));
    }
  }
  write_file(dir_ / "floats", lines);
  const auto [status, output] = read_back("floats '" + (dir_ / "floats") + "'");
  EXPECT_EQ(status, 0) << output;
}

class Promtool : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_installed("promtool --version")) {
      GTEST_SKIP() << "skipped: no promtool (package prometheus)";
    }
  }

  std::pair<int, std::string> check(const std::string& text) {
    write_file(dir_ / "text", text);
    return run_command("promtool check metrics <'" + (dir_ / "text") + "'", dir_);
  }

  TempDir dir_;
};

// C-39
TEST_F(Promtool, OurOwnNames_HaveNoComplaint) {
  const Labels labels = {{"engine", "0"}, {"model_name", "l\"l\\a\nm\u00e4\xFF"}};
  const auto [status, output] = check(render(snapshot(
      {family("rankbus_records_total", "Records\nread\\.", FamilyType::counter,
              {series(labels, Number(std::numeric_limits<std::uint64_t>::max()))}),
       family("rankbus_source_age_seconds", "Age.", FamilyType::gauge,
              {series(labels, Number(std::nan("")))}),
       family("rankbus_step_interval_seconds", "Interval.", FamilyType::histogram,
              {series(labels, Histogram{bounds({0.001, 1e6, 1e10}), {1, 2, 3, 4}, 1e10})})})));
  EXPECT_EQ(status, 0) << output;
  EXPECT_EQ(output, "");
}

TEST_F(Promtool, VllmNames_HaveNoComplaintButTheColon) {
  const auto [status, output] = check(render(mixed_snapshot()));
  EXPECT_NE(status, 1) << output;  // 1 is a parse error, 3 a complaint about style.
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_NE(line.find("metric names should not contain ':'"), std::string::npos) << line;
  }
}

TEST_F(Promtool, BrokenText_IsNoticed) {
  EXPECT_EQ(check("a{b=\"c} 1\n").first, 1);
}

}  // namespace
}  // namespace rankbus::test
