#include <cassert>
#include <cstddef>
#include <cstdint>
#include <rankbus/exporters/number_text.hpp>
#include <rankbus/exporters/prometheus_text.hpp>
#include <rankbus/exporters/utf8.hpp>
#include <string_view>
#include <variant>

namespace rankbus {
namespace {

enum class Escape : std::uint8_t { help, label };

// Runs of ordinary ASCII, nearly always the whole text, are appended at once.
void append_escaped(std::string_view text, Escape escape, std::string& out) {
  std::size_t plain_from = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    const char c = text[at];
    const bool is_ascii = static_cast<unsigned char>(c) < 0x80;
    std::string_view instead;
    std::size_t bytes = 1;
    if (c == '\\') {
      instead = "\\\\";
    } else if (c == '\n') {
      instead = "\\n";
    } else if (c == '"' && escape == Escape::label) {
      instead = "\\\"";
    } else if (!is_ascii) {
      const CodePoint point = read_utf8_untrusted(text, at);
      bytes = point.bytes;
      if (!point.valid) instead = kReplacementCharacter;
    }
    if (!instead.empty()) {
      out += text.substr(plain_from, at - plain_from);
      out += instead;
      plain_from = at + bytes;
    }
    at += bytes;
  }
  out += text.substr(plain_from);
}

void append_label(std::string_view name, std::string_view value, std::string& out) {
  out += name;
  out += "=\"";
  append_escaped(value, Escape::label, out);
  out += '"';
}

// `{a="b",c="d"}`, or nothing for no labels.
void append_labels(const Labels& labels, std::string& out) {
  if (labels.empty()) return;
  char before = '{';
  for (const auto& [name, value] : labels) {
    out += before;
    append_label(name, value, out);
    before = ',';
  }
  out += '}';
}

// The `le` texts of one set of bounds. Nearly all series of a family, and many families, share
// theirs, so that each text is made once.
class LeTexts {
 public:
  void use(const std::vector<double>& bounds) {
    if (bounds_ == &bounds) return;
    bounds_ = &bounds;
    text_.clear();
    ends_.clear();
    for (const double bound : bounds) {
      append_le(bound, text_);
      ends_.push_back(text_.size());
    }
  }

  std::string_view operator[](std::size_t index) const {
    const std::size_t from = index == 0 ? 0 : ends_[index - 1];
    return std::string_view(text_).substr(from, ends_[index] - from);
  }

 private:
  const std::vector<double>* bounds_ = nullptr;
  std::string text_;
  std::vector<std::size_t> ends_;
};

// All bucket lines of a series differ only in `le` and count. The first one is composed; the others
// copy its two constant parts from where they stand in the buffer.
void append_buckets(const Family& family, const Labels& labels, const Histogram& histogram,
                    const LeTexts& le_texts, std::string& out) {
  const std::size_t finite = histogram.bounds->size();
  const auto le_text = [&](std::size_t i) { return i < finite ? le_texts[i] : "+Inf"; };

  const std::size_t head_from = out.size();
  out += family.name;
  out += "_bucket";
  char before = '{';
  auto label = labels.begin();
  for (; label != labels.end() && label->first < "le"; ++label) {
    out += before;
    append_label(label->first, label->second, out);
    before = ',';
  }
  out += before;
  out += "le=\"";
  const std::size_t head_bytes = out.size() - head_from;
  out += le_text(0);
  const std::size_t tail_from = out.size();
  out += '"';
  for (; label != labels.end(); ++label) {
    out += ',';
    append_label(label->first, label->second, out);
  }
  out += "} ";
  const std::size_t tail_bytes = out.size() - tail_from;

  std::uint64_t cumulative = histogram.counts[0];
  append_integer(cumulative, out);
  out += '\n';
  for (std::size_t i = 1; i < histogram.counts.size(); ++i) {
    out.append(out, head_from, head_bytes);
    out += le_text(i);
    out.append(out, tail_from, tail_bytes);
    cumulative += histogram.counts[i];
    append_integer(cumulative, out);
    out += '\n';
  }

  out += family.name;
  out += "_sum";
  append_labels(labels, out);
  out += ' ';
  append_double(histogram.sum, out);
  out += '\n';
  out += family.name;
  out += "_count";
  append_labels(labels, out);
  out += ' ';
  append_integer(cumulative, out);
  out += '\n';
}

std::string_view type_name(FamilyType type) {
  switch (type) {
    case FamilyType::counter:
      return "counter";
    case FamilyType::gauge:
      return "gauge";
    case FamilyType::histogram:
      return "histogram";
  }
  return "untyped";
}

void append_header(const Family& family, std::string& out) {
  out += "# HELP ";
  out += family.name;
  out += ' ';
  append_escaped(family.help, Escape::help, out);
  out += "\n# TYPE ";
  out += family.name;
  out += ' ';
  out += type_name(family.type);
  out += '\n';
}

void append_series(const Family& family, const Series& series, LeTexts& le_texts,
                   std::string& out) {
  if (const auto* number = std::get_if<Number>(&series.value)) {
    assert(family.type != FamilyType::histogram);
    out += family.name;
    append_labels(series.labels, out);
    out += ' ';
    append_number(*number, out);
    out += '\n';
    return;
  }
  const auto& histogram = std::get<Histogram>(series.value);
  assert(family.type == FamilyType::histogram && histogram.bounds != nullptr &&
         histogram.counts.size() == histogram.bounds->size() + 1);
  le_texts.use(*histogram.bounds);
  append_buckets(family, series.labels, histogram, le_texts, out);
}

}  // namespace

bool shows(const SeriesFilter& filter, const Series& series) {
  const bool is_own = series.server.empty() && series.engine.empty();
  if (is_own) return !filter.server && !filter.engine;
  if (filter.engine && series.engine != *filter.engine) return false;
  if (!filter.server || series.server == *filter.server) return true;
  for (const auto& [name, value] : series.labels) {
    if (name == "server") return value == *filter.server;
  }
  return false;
}

void render_prometheus_text(const Snapshot& snapshot, const SeriesFilter& filter,
                            std::string& out) {
  LeTexts le_texts;
  for (const Family& family : snapshot.families) {
    bool has_header = false;
    for (const Series& series : family.series) {
      if (!shows(filter, series)) continue;
      if (!has_header) append_header(family, out);
      has_header = true;
      append_series(family, series, le_texts, out);
    }
  }
}

}  // namespace rankbus
