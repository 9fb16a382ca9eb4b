// Goal: texts of strangers in a CSV are shown by a spreadsheet and not computed, and stay in their
//       cell.
// Method: names and values that begin like formulas, or end a cell or a line; numbers are left
//         alone.
#include <gtest/gtest.h>

#include <rankbus/aggregator/analysis/export_format.hpp>

namespace {

using rankbus::analysis::csv_text;
using rankbus::analysis::Json;

// C-24
TEST(Csv, HostileTexts_AreShownAndNotComputed) {
  EXPECT_EQ(csv_text(Json{{"alert", "=HYPERLINK(\"http://x\")"}}),
            "name,value\r\nalert,\"'=HYPERLINK(\"\"http://x\"\")\"\r\n");
  for (const std::string text : {"=1+1", "+1", "-1", "@SUM(A1)", "\t=1"}) {
    EXPECT_EQ(csv_text(Json{{"a", text}}), "name,value\r\na,'" + text + "\r\n");
    EXPECT_EQ(csv_text(Json{{text, 1}}), "name,value\r\n'" + text + ",1\r\n");
  }
  EXPECT_EQ(csv_text(Json{{"a", "\r\n=1,2"}}), "name,value\r\na,\"'\r\n=1,2\"\r\n");
  EXPECT_EQ(csv_text(Json{{"a", "x,\"y\"\nz"}}), "name,value\r\na,\"x,\"\"y\"\"\nz\"\r\n");
}

TEST(Csv, NumbersAndPlainTexts_AreAsTheyWere) {
  EXPECT_EQ(csv_text(Json{{"a", -1.5}, {"b", "1-2"}, {"c", ""}, {"d", nullptr}}),
            "name,value\r\na,-1.5\r\nb,1-2\r\nc,\r\nd,\r\n");
}

}  // namespace
