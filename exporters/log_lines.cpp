#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <rankbus/exporters/log_lines.hpp>
#include <rankbus/exporters/log_text.hpp>
#include <rankbus/exporters/python_text.hpp>
#include <string_view>
#include <utility>

namespace rankbus {
namespace {

// Never infinite and never NaN.
double per_second(double amount, double elapsed_s) {
  return elapsed_s > 0 ? amount / elapsed_s : 0.0;
}
double per_second(std::uint64_t amount, double elapsed_s) {
  return per_second(static_cast<double>(amount), elapsed_s);
}

// NaN where there was nothing to divide by, as vLLM shows it. A quotient of zeros would do, but for
// its sign, which is printed.
double ratio(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(part) / static_cast<double>(whole);
}

double hit_percentage(const CacheWindow& window) {
  return window.queries == 0 ? 0.0 : ratio(window.hits, window.queries) * 100;
}

// A producer may write any double.
double finite_or_zero(double value) {
  return std::isfinite(value) ? value : 0.0;
}

void add(CacheWindow& sum, const CacheWindow& window) {
  sum.requests += window.requests;
  sum.queries += window.queries;
  sum.hits += window.hits;
}

void add(std::uint64_t& sum, std::uint64_t count) {
  sum += count;
}

void add(SpecDecodingTotals& sum, const SpecDecodingTotals& counts) {
  sum.drafts += counts.drafts;
  sum.draft_tokens += counts.draft_tokens;
  sum.accepted_tokens += counts.accepted_tokens;
  auto& positions = sum.accepted_per_position;
  positions.resize(std::max(positions.size(), counts.accepted_per_position.size()));
  for (std::size_t i = 0; i < counts.accepted_per_position.size(); ++i)
    positions[i] += counts.accepted_per_position[i];
}

void add(DiffusionTotals& sum, const DiffusionTotals& counts) {
  sum.denoising_steps += counts.denoising_steps;
  sum.canvas_positions += counts.canvas_positions;
  sum.committed_tokens += counts.committed_tokens;
}

// A feature that one engine has, all of them together have.
template <class Counts>
void add(std::optional<Counts>& sum, const std::optional<Counts>& counts) {
  if (!counts) return;
  if (!sum) sum.emplace();
  add(*sum, *counts);
}

std::string spec_decoding_line(const SpecDecodingTotals& spec, double elapsed_s) {
  if (spec.drafts == 0) return {};
  std::string positions;
  for (const std::uint64_t accepted : spec.accepted_per_position) {
    fmt::format_to(std::back_inserter(positions), "{}{:.3f}", positions.empty() ? "" : ", ",
                   ratio(accepted, spec.drafts));
  }
  return fmt::format(
      "SpecDecoding metrics: Mean acceptance length: {:.2f}, "
      "Accepted throughput: {:.2f} tokens/s, Drafted throughput: {:.2f} tokens/s, "
      "Accepted: {} tokens, Drafted: {} tokens, Per-position acceptance rate: {}, "
      "Avg Draft acceptance rate: {:.1f}%",
      1 + ratio(spec.accepted_tokens, spec.drafts), per_second(spec.accepted_tokens, elapsed_s),
      per_second(spec.draft_tokens, elapsed_s), spec.accepted_tokens, spec.draft_tokens, positions,
      ratio(spec.accepted_tokens, spec.draft_tokens) * 100);
}

std::string diffusion_line(const DiffusionTotals& diffusion, double elapsed_s) {
  if (diffusion.denoising_steps == 0) return {};
  return fmt::format(
      "DiffusionDecoding metrics: Committed token throughput: {:.2f} tokens/s, "
      "Mean denoising steps per canvas: {:.2f}, Mean tokens committed per denoising step: {:.2f}, "
      "Committed: {} tokens, Denoising steps: {}, Canvas positions evaluated: {}",
      per_second(diffusion.committed_tokens, elapsed_s),
      ratio(diffusion.canvas_positions, diffusion.committed_tokens),
      ratio(diffusion.committed_tokens, diffusion.denoising_steps), diffusion.committed_tokens,
      diffusion.denoising_steps, diffusion.canvas_positions);
}

// vLLM's class of a connector; a user's own has the name that the user gave it.
std::string connector_class_untrusted(const std::string& connector) {
  constexpr std::pair<std::string_view, std::string_view> kClasses[] = {
      {"nixl", "NixlConnector"},
      {"moriio", "MoRIIOConnector"},
      {"mooncake", "MooncakeConnector"},
      {"mooncake_store", "MooncakeStoreConnector"},
      {"offloading", "OffloadingConnector"},
      {"hisparse", "HiSparseConnector"}};
  for (const auto& [name, class_name] : kClasses) {
    if (connector == name) return std::string(class_name);
  }
  std::string text;
  append_log_text_untrusted(connector, text);
  return text;
}

// name=value, name=value
void append_plain_untrusted(const ConnectorReport& report, std::string& out) {
  std::string_view separator = "";
  for (const auto& [name, value] : report.entries) {
    out += std::exchange(separator, ", ");
    append_log_text_untrusted(name, out);
    out += '=';
    append_python_number(value, out);
  }
}

// {'name': value, 'name': value}
void append_python_dict_untrusted(const ConnectorReport& report, std::string& out) {
  out += '{';
  std::string_view separator = "";
  for (const auto& [name, value] : report.entries) {
    out += std::exchange(separator, ", ");
    append_python_quoted_untrusted(name, out);
    out += ": ";
    append_python_number(value, out);
  }
  out += '}';
}

constexpr std::size_t kColumns = 5;
using Row = std::array<std::string, kColumns>;

// Cells are valid UTF-8 by now; a code point is a column, as for Python's ljust.
std::size_t width_of(const std::string& cell) {
  return static_cast<std::size_t>(std::count_if(cell.begin(), cell.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string table_line(const Row& row, const std::array<std::size_t, kColumns>& widths) {
  std::string line = "|";
  for (std::size_t i = 0; i < kColumns; ++i) {
    line += ' ' + row[i] + std::string(widths[i] - width_of(row[i]), ' ') + " |";
  }
  return line;
}

}  // namespace

double IntervalFigures::prompt_rate() const {
  return per_second(prompt_tokens, elapsed_s);
}
double IntervalFigures::generation_rate() const {
  return per_second(generation_tokens, elapsed_s);
}

IntervalFigures sum_of(const std::vector<IntervalFigures>& engines) {
  IntervalFigures sum;
  for (const IntervalFigures& engine : engines) {
    sum.elapsed_s = std::max(sum.elapsed_s, engine.elapsed_s);
    sum.prompt_tokens += engine.prompt_tokens;
    sum.generation_tokens += engine.generation_tokens;
    sum.preemptions += engine.preemptions;
    sum.running += engine.running;
    sum.waiting += engine.waiting;
    sum.deferred += engine.deferred;
    sum.kv_cache_usage += finite_or_zero(engine.kv_cache_usage);
    add(sum.prefix_cache, engine.prefix_cache);
    add(sum.external_prefix_cache, engine.external_prefix_cache);
    add(sum.multimodal_cache, engine.multimodal_cache);
    add(sum.corrupted, engine.corrupted);
    add(sum.spec_decoding, engine.spec_decoding);
    add(sum.diffusion, engine.diffusion);
    // No perf: estimates are for one GPU, and vLLM prints none for several engines.
  }
  if (!engines.empty()) sum.kv_cache_usage /= static_cast<double>(engines.size());
  return sum;
}

std::string throughput_line(const IntervalFigures& figures) {
  std::string line;
  const auto to_line = std::back_inserter(line);
  fmt::format_to(to_line,
                 "Avg prompt throughput: {:.1f} tokens/s, "
                 "Avg generation throughput: {:.1f} tokens/s, Running: {} reqs, Waiting: {} reqs",
                 figures.prompt_rate(), figures.generation_rate(), figures.running,
                 figures.waiting);
  if (figures.deferred > 0) fmt::format_to(to_line, ", Deferred: {} reqs", figures.deferred);
  if (figures.preemptions > 0) fmt::format_to(to_line, ", Preemptions: {}", figures.preemptions);
  fmt::format_to(to_line, ", GPU KV cache usage: {:.1f}%, Prefix cache hit rate: {:.1f}%",
                 finite_or_zero(figures.kv_cache_usage) * 100,
                 hit_percentage(figures.prefix_cache));
  if (figures.corrupted) fmt::format_to(to_line, ", Corrupted: {} reqs", *figures.corrupted);
  if (figures.external_prefix_cache.requests > 0) {
    fmt::format_to(to_line, ", External prefix cache hit rate: {:.1f}%",
                   hit_percentage(figures.external_prefix_cache));
  }
  if (figures.multimodal_cache.requests > 0) {
    fmt::format_to(to_line, ", MM cache hit rate: {:.1f}%",
                   hit_percentage(figures.multimodal_cache));
  }
  return line;
}

std::string decoding_line(const IntervalFigures& figures) {
  if (figures.diffusion) return diffusion_line(*figures.diffusion, figures.elapsed_s);
  if (figures.spec_decoding) return spec_decoding_line(*figures.spec_decoding, figures.elapsed_s);
  return {};
}

std::string connector_line_untrusted(const IntervalStats& interval) {
  if (interval.connectors.empty()) return {};
  std::string line = "KV Transfer metrics: ";
  if (interval.connectors.size() == 1 && !interval.has_several_connectors) {
    append_plain_untrusted(interval.connectors.front(), line);
    return line;
  }
  std::string_view separator = "";
  for (const ConnectorReport& report : interval.connectors) {
    line += std::exchange(separator, ", ");
    line += connector_class_untrusted(report.connector) + '=';
    append_python_dict_untrusted(report, line);
  }
  return line;
}

std::vector<std::string> cuda_graph_table_untrusted(
    const std::vector<CudaGraphCount>& batches, const std::optional<CudaGraphSettings>& settings) {
  std::vector<std::string> lines;
  if (batches.empty()) return lines;
  if (settings) {
    std::string mode = "- Mode: ";
    append_log_text_untrusted(settings->mode, mode);
    std::string sizes = "- Capture sizes: ";
    append_log_text_untrusted(settings->capture_sizes, sizes);
    lines.insert(lines.end(), {"**CUDAGraph Config Settings:**", "", mode, sizes, ""});
  }
  std::vector<Row> rows = {
      {"Unpadded Tokens", "Padded Tokens", "Num Paddings", "Runtime Mode", "Count"}};
  for (const CudaGraphCount& batch : batches) {
    std::string mode;
    append_log_text_untrusted(batch.mode, mode);
    rows.push_back({fmt::format("{}", batch.unpadded_tokens),
                    fmt::format("{}", batch.padded_tokens), fmt::format("{}", batch.paddings),
                    std::move(mode), fmt::format("{}", batch.count)});
  }
  std::array<std::size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kColumns; ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string rule = "|";
  for (const std::size_t width : widths) rule += std::string(width + 2, '-') + '|';
  lines.insert(lines.end(), {"**CUDAGraph Stats:**", "", table_line(rows.front(), widths), rule});
  for (std::size_t i = 1; i < rows.size(); ++i) lines.push_back(table_line(rows[i], widths));
  lines.emplace_back();  // vLLM's text ends in a line break of its own.
  return lines;
}

std::string perf_line(const IntervalFigures& figures) {
  if (!figures.perf) return {};
  const PerfTotals& perf = *figures.perf;
  if (!(perf.flops > 0 || perf.read_bytes > 0 || perf.write_bytes > 0)) return {};
  const double bytes = perf.read_bytes + perf.write_bytes;
  return fmt::format("MFU: {:.1f} TF/s/GPU {:.1f} GB/s/GPU",
                     finite_or_zero(per_second(perf.flops, figures.elapsed_s)) / 1e12,
                     finite_or_zero(per_second(bytes, figures.elapsed_s)) / 1e9);
}

std::string iteration_line(const IterationDetail& iteration) {
  std::string line = fmt::format(
      "Iteration({}): {} context requests, {} context tokens, {} generation requests, "
      "{} generation tokens, iteration elapsed time: {:.2f} ms{}, GPU KV cache usage: {:.1f}%",
      iteration.index, iteration.ctx_requests, iteration.ctx_tokens, iteration.generation_requests,
      iteration.generation_tokens, finite_or_zero(iteration.elapsed_ms),
      iteration.is_dummy ? " (dummy)" : "", finite_or_zero(iteration.kv_cache_usage) * 100);
  if (iteration.encoder_inputs > 0) {
    fmt::format_to(std::back_inserter(line), ", encoder inputs: {}, encoder output embeddings: {}",
                   iteration.encoder_inputs, iteration.encoder_output_tokens);
  }
  return line;
}

}  // namespace rankbus
