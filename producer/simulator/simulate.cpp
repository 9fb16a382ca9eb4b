#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <rankbus/producer/simulator/event_log.hpp>
#include <rankbus/producer/simulator/simulate.hpp>
#include <rankbus/producer/simulator/simulation.hpp>
#include <rankbus/producer/simulator/step_features.hpp>
#include <rankbus/producer/simulator/trace.hpp>

namespace rankbus::simulator {

namespace {

constexpr std::uint32_t kDefaultGeneratedRequests = 1000;
constexpr double kSlowest = 0.001;
constexpr double kFastest = 1e6;

// Parses "max" or a factor; throws what CLI11 turns into a message that names the flag.
double parse_speed(const std::string& text) {
  if (text == "max") return kMaxSpeed;
  double speed = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, speed);
  if (error != std::errc{} || rest != end || !(speed >= kSlowest && speed <= kFastest)) {
    throw CLI::ValidationError("--speed",
                               "'" + text + "' is neither max nor a factor from 0.001 to 1e6");
  }
  return speed;
}

// The number of requests in "generated" or "generated:REQUESTS".
std::uint32_t generated_requests(const std::string& workload) {
  const std::string kind = "generated";
  if (workload.empty() || workload == kind) return kDefaultGeneratedRequests;
  std::uint32_t requests = 0;
  const char* end = workload.data() + workload.size();
  if (workload.starts_with(kind + ":")) {
    const auto [rest, error] = std::from_chars(workload.data() + kind.size() + 1, end, requests);
    if (error == std::errc{} && rest == end && requests >= 1 && requests <= 10'000'000) {
      return requests;
    }
  }
  throw InputError("--workload: '" + workload +
                   "' is neither generated nor generated:REQUESTS with 1 to 10000000 requests");
}

// Two options that exclude each other may still come from different places: the one that was typed
// wins over the one in the environment.
void prefer_flag_to_environment(std::string& trace, std::string& workload) {
  if (trace.empty() || workload.empty()) return;
  const auto from_environment = [](const char* variable, const std::string& value) {
    const char* text = std::getenv(variable);
    return text != nullptr && value == text;
  };
  const bool environment_trace = from_environment("RANKBUS_TRACE", trace);
  const bool environment_workload = from_environment("RANKBUS_WORKLOAD", workload);
  if (environment_trace == environment_workload) return;
  (environment_trace ? trace : workload).clear();
}

Workload load_workload(const SimulateOptions& options) {
  if (!options.trace.empty() && !options.workload.empty()) {
    throw InputError("--trace and --workload exclude each other");
  }
  Workload workload = options.trace.empty()
                          ? generate_workload(generated_requests(options.workload), options.seed)
                          : read_trace_file(options.trace, options.seed);
  if (std::isfinite(options.duration_s)) {
    limit_duration(workload, static_cast<std::uint64_t>(options.duration_s * 1e9));
  }
  return workload;
}

std::string server_name(const SimulateOptions& options) {
  if (!options.server.empty()) return options.server;
  for (const char* variable : {"RANKBUS_SERVER", "POD_NAME"}) {
    const char* value = std::getenv(variable);
    if (value != nullptr && value[0] != '\0') return value;
  }
  return "";
}

// One run for all processes, so that readers see them as one server's life.
std::string run_id() {
  const char* given = std::getenv("RANKBUS_RUN_ID");
  if (given != nullptr && given[0] != '\0') return given;
  std::uint8_t bytes[16];
  random_bytes(bytes, sizeof bytes);
  char text[2 * sizeof bytes + 1];
  bus::write_hex(bytes, sizeof bytes, text);
  return text;
}

// Each process is a segment of the bus, and a bus holds so many.
void check_process_count(const SimulateOptions& options) {
  const std::uint64_t processes =
      std::uint64_t{options.engines} * (1u + options.front_ends + options.tp);
  if (processes <= bus::kMaxSegments) return;
  throw InputError("--engines " + std::to_string(options.engines) + " x --tp " +
                   std::to_string(options.tp) + " makes " + std::to_string(processes) +
                   " processes with schedulers and front ends, more than the " +
                   std::to_string(bus::kMaxSegments) + " segments that a bus holds");
}

RunPlan make_plan(const SimulateOptions& options) {
  check_process_count(options);
  RunPlan plan;
  plan.options = options;
  plan.workload = load_workload(options);
  assign_features(plan.workload, options.features, options.seed);
  plan.limits = {.max_num_batched_tokens = options.max_num_batched_tokens,
                 .max_num_seqs = options.max_num_seqs,
                 .kv_blocks = options.kv_blocks,
                 .block_rule = options.block_rule,
                 .max_sequence_tokens = longest_sequence(options.max_model_len, options.kv_blocks),
                 .max_loras = options.features.max_loras,
                 .external_cache = options.features.any_connector(),
                 .external_cache_seed = options.seed};
  plan.run_id = run_id();
  plan.server = server_name(options);
  return plan;
}

void add_engine_options(CLI::App& command, SimulateOptions& o) {
  constexpr std::uint32_t kMostTokens = 1u << 28;
  command.add_option("--max-model-len", o.max_model_len, "longest sequence, prompt and output")
      ->check(CLI::Range(2u, kMostTokens));
  command.add_option("--engines", o.engines, "data-parallel engines; requests go to them in turn")
      ->check(CLI::Range(1u, 256u));
  command.add_option("--tp", o.tp, "tensor-parallel ranks per engine, a process each")
      ->check(CLI::Range(1u, 256u));
  command
      .add_option("--front-ends", o.front_ends,
                  "API server processes per engine; requests go to them in turn")
      ->check(CLI::Range(1u, 256u));
  command
      .add_option("--kv-blocks", o.kv_blocks, "KV blocks of 512 tokens per engine, 0: unlimited")
      ->check(CLI::Range(0u, kMostTokens / kBlockTokens));
  command
      .add_option_function<std::string>(
          "--block-rule",
          [&o](const std::string& rule) {
            o.block_rule = rule == "vllm" ? BlockRule::vllm : BlockRule::trace;
          },
          "vllm: full blocks only, one prompt token is always computed; "
          "trace: the partial last block counts")
      ->check(CLI::IsMember({"vllm", "trace"}))
      ->default_str("vllm");
  command.add_option("--max-num-seqs", o.max_num_seqs, "running requests per engine at most")
      ->check(CLI::Range(1u, 1u << 20));
  command
      .add_option("--max-num-batched-tokens", o.max_num_batched_tokens,
                  "tokens per step at most; longer prompts are computed in chunks")
      ->check(CLI::Range(1u, kMostTokens));
  command.add_option("--collectives", o.collectives, "collectives per step")
      ->check(CLI::Range(0u, 1024u));
}

void add_run_options(CLI::App& command, SimulateOptions& o) {
  command.add_option("--bus", o.bus, "bus directory");
  command.add_option("--trace", o.trace, "request trace, Mooncake JSON lines");
  command.add_option(
      "--workload", o.workload,
      "generated[:REQUESTS]: the documented random workload, 1000 requests by default");
  command.add_option("--model", o.model, "served model name");
  command.add_option("--server", o.server, "name of the deployment");
  command
      .add_option_function<std::string>(
          "--speed", [&o](const std::string& text) { o.speed = parse_speed(text); },
          "model seconds per second, or max")
      ->type_name("FACTOR|max")
      ->default_str("1");
  command
      .add_option_function<std::string>(
          "--clock",
          [&o](const std::string& clock) {
            o.clock = clock == "virtual" ? ClockKind::virtual_time : ClockKind::real;
          },
          "virtual: every stamp comes from the model and the seed (default with --speed max); "
          "real: work is slept, stamps are the machine's (default otherwise)")
      ->check(CLI::IsMember({"virtual", "real"}));
  command.add_option("--duration", o.duration_s, "model seconds in which requests arrive")
      ->check(CLI::Range(0.001, 1e9))
      ->default_str("all");
  command
      .add_option(
          "--until", o.until_s,
          "stop when the engines' clock reaches so many model seconds, requests in them or not")
      ->check(CLI::Range(0.001, 1e9))
      ->default_str("all is served");
  command.add_option("--seed", o.seed, "everything random follows from it");
  command.add_flag("--hold", o.hold,
                   "start all processes, then wait for SIGUSR1 before the first request");
  command.add_flag("--linger", o.linger, "keep all processes until SIGTERM or SIGINT");
  command.add_option("--truth", o.truth, "write the expected values of /metrics to this file");
  command.add_option("--event-log", o.event_log,
                     "write what happened to blocks and caches to files of this name and .engineN");
}

// Returns whether `--features all` was given, once the command line is parsed.
std::shared_ptr<bool> add_feature_options(CLI::App& command, FeatureOptions& f) {
  auto all = std::make_shared<bool>(false);
  command
      .add_option_function<std::string>(
          "--features", [all](const std::string&) { *all = true; },
          "all: everything below but --diffusion, with these values where none are given: "
          "4 draft tokens, a tenth of the KV blocks (for either sample), 8 adapters, 1 corrupted "
          "request in 16, all "
          "connectors, sleep at level 1")
      ->check(CLI::IsMember({"all"}))
      ->default_str("");
  auto* speculative = command
                          .add_option("--speculative-tokens", f.speculative_tokens,
                                      "tokens per draft of speculative decoding, 0: none")
                          ->check(CLI::Range(0u, kMostDraftTokens));
  command.add_flag("--diffusion", f.diffusion, "statistics of a diffusion language model")
      ->excludes(speculative);
  command.add_flag("--mfu-metrics", f.mfu_metrics, "estimates of operations and memory traffic");
  command.add_flag("--cudagraph-metrics", f.cudagraph_metrics, "which CUDA graph ran each step");
  command
      .add_option("--kv-cache-metrics-sample", f.kv_cache_metrics_sample,
                  "share of the KV blocks whose life is followed, 0: none")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--lora-adapters", f.lora_adapters, "LoRA adapters that requests ask for")
      ->check(CLI::Range(0u, 64u));
  command.add_option("--max-loras", f.max_loras, "adapters that run at the same time")
      ->check(CLI::Range(1u, 64u));
  command.add_flag("--multimodal", f.multimodal, "one request in four has images");
  command
      .add_option("--corrupted-requests", f.corrupted_requests,
                  "one request in so many has a NaN in its logits, 0: none")
      ->check(CLI::Range(0u, 1u << 20));
  command
      .add_option_function<std::vector<std::string>>(
          "--kv-connector",
          [&f](const std::vector<std::string>& names) {
            for (std::size_t i = 0; i < kConnectors; ++i) {
              f.connectors[i] =
                  std::find(names.begin(), names.end(), kConnectorNames[i]) != names.end();
            }
          },
          "KV connectors of every rank, with an external prefix cache behind them: nixl, moriio, "
          "mooncake, mooncake_store, offloading, hisparse")
      ->delimiter(',')
      ->check(
          CLI::IsMember(std::vector<std::string>(kConnectorNames.begin(), kConnectorNames.end())))
      ->type_name("NAME[,NAME]")
      ->default_str("");
  command
      .add_option("--sleep", f.sleep_level,
                  "level at which the engines fall asleep when all is served, 0: they stay awake")
      ->check(CLI::Range(0u, 2u));
  command.add_flag("--cache-config", f.cache_config, "the configuration of the KV cache");
  command.add_flag("--iteration-details", f.iteration_details, "a record of each iteration");
  command
      .add_option("--block-operations", f.block_operations_sample,
                  "share of the KV blocks whose allocations, accesses and evictions are told, "
                  "0: none")
      ->check(CLI::Range(0.0, 1.0));
  command.add_flag("--cache-metrics", f.cache_metrics,
                   "lookups, storage and evictions of each level of the caches");
  command.add_flag("--step-phases", f.step_phases, "where the time of each step went");
  return all;
}

}  // namespace

int run_simulate(const SimulateOptions& options) {
  try {
    RunPlan plan = make_plan(options);
    // An hour's work should not end at a file that could never be written.
    if (!options.truth.empty()) check_truth_file(options.truth);
    if (!options.event_log.empty()) EventLog(engine_log_name(options.event_log, 0));
    return Simulation(std::move(plan)).run();
  } catch (const InputError& error) {
    std::fprintf(stderr, "rankbus simulate: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rankbus simulate: %s\n", error.what());
    return 1;
  }
}

std::function<int()> add_simulate_command(CLI::App& app) {
  const auto options = std::make_shared<SimulateOptions>();
  CLI::App* command = app.add_subcommand(
      "simulate",
      "Replay a request trace through a model of an inference engine, from real processes");
  command->option_defaults()->always_capture_default();
  add_run_options(*command, *options);
  add_engine_options(*command, *options);
  const auto all = add_feature_options(*command, options->features);
  // The options live as long as whoever parses into them, even if the result is dropped.
  command->parse_complete_callback([options] {});
  return [options, all] {
    if (*all) options->features = all_features(options->features);
    prefer_flag_to_environment(options->trace, options->workload);
    return run_simulate(*options);
  };
}

}  // namespace rankbus::simulator
