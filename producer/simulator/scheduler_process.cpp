#include <algorithm>
#include <rankbus/producer/simulator/info_record.hpp>
#include <rankbus/producer/simulator/processes.hpp>
#include <rankbus/producer/simulator/scheduler_features.hpp>
#include <rankbus/producer/simulator/simulated_cache.hpp>

namespace rankbus::simulator {

namespace {

class SchedulerProcess {
 public:
  SchedulerProcess(ChildContext& context, Producer& producer)
      : context_(context),
        plan_(context.plan),
        shared_(*context.engine.shared),
        stop_(context.simulation.stop),
        producer_(producer),
        core_(plan_.workload, plan_.limits, plan_.times, context.engine_index,
              plan_.options.engines, plan_.options.front_ends),
        features_(plan_, context.engine_index, core_, producer, shared_.features),
        timelines_(plan_.options.seed, context.engine_index, plan_.options.tp,
                   plan_.options.collectives),
        outputs_of_(plan_.options.front_ends) {
    for (Channel* channel : context.engine.front_ends) front_ends_.emplace_back(*channel, stop_);
    for (Channel* channel : context.engine.ranks) ranks_.emplace_back(*channel, stop_);
    shared_.refused_requests = core_.refused();
  }

  // Serves all requests, or until the clock says so; false when the simulation was stopped.
  bool serve() {
    scale_ = context_.time_scale();
    core_.set_time_scale(scale_);
    until_ns_ = plan_.until_ns(scale_);
    features_.start(producer_.now());
    while (!core_.finished() && clock_ns() < until_ns_) {
      const std::uint64_t now_ns = clock_ns();
      core_.admit_arrivals(now_ns);
      if (!(core_.idle() ? wait_for_arrival() : run_step(now_ns))) return false;
    }
    return send_end();
  }

 private:
  std::uint64_t clock_ns() const { return plan_.real_clock() ? monotonic_now_ns() : virtual_ns_; }

  bool wait_for_arrival() {
    if (step_ > 0) ++wave_;
    const std::uint64_t arrival_ns = std::min(core_.next_arrival_ns(), until_ns_);
    if (plan_.real_clock()) return sleep_until_unless_stopped(arrival_ns, stop_);
    virtual_ns_ = arrival_ns;
    return true;
  }

  bool run_step(std::uint64_t now_ns) {
    features_.begin_step(
        {.stamp = plan_.real_clock() ? producer_.now() : now_ns, .clock_ns = now_ns});
    const StepWork& work = core_.begin_step(now_ns);
    const StepMessage message = {.step = step_,
                                 .cost = step_cost(plan_.times, work, core_.model().running()),
                                 .padded_tokens = padded_tokens(work),
                                 .moved = moved_by_connectors(work)};
    const bool computed =
        plan_.real_clock() ? compute_real(message) : compute_virtual(message, now_ns);
    if (!computed) return false;
    const std::uint64_t tokens_ns = clock_ns();
    const auto outputs = core_.end_step();
    record_step(work, now_ns, tokens_ns, phases_of(message.cost));
    ++step_;
    return send_outputs(tokens_ns, outputs);
  }

  bool compute_real(const StepMessage& message) {
    const std::uint64_t schedule_ns = scale_.duration_ns(message.cost.schedule_ns);
    return sleep_until_unless_stopped(monotonic_now_ns() + schedule_ns, stop_) &&
           broadcast(message, /*at_once=*/true) && wait_unless_stopped(shared_.output_ready, stop_);
  }

  // Nobody needs to answer: what the ranks will do is known from the seed.
  bool compute_virtual(StepMessage message, std::uint64_t now_ns) {
    message.broadcast_ns = now_ns + message.cost.schedule_ns;
    timelines_.advance(plan_.times, step_, message.broadcast_ns, message.cost);
    virtual_ns_ = timelines_.rank(0).output_ready_ns + plan_.times.collect_ns;
    return pace(virtual_ns_) && broadcast(message, paced());
  }

  // Real ranks are not asked: told is what they were to sleep.
  PhaseTimes phases_of(const StepCost& cost) const {
    if (!plan_.real_clock()) return timelines_.phases(cost);
    PhaseTimes phases = planned_phases(cost);
    for (std::uint64_t* part :
         {&phases.schedule_ns, &phases.model_forward_ns, &phases.model_execute_ns,
          &phases.sample_ns, &phases.all_reduce_ns}) {
      *part = scale_.duration_ns(*part);
    }
    return phases;
  }

  // A virtual clock may be held back to a multiple of the real one, for people who watch.
  bool paced() const { return plan_.options.speed != kMaxSpeed; }
  bool pace(std::uint64_t model_ns) const {
    if (!paced()) return !stop_.stopped();
    const TimeScale watch = {context_.simulation.origin_ns, plan_.options.speed};
    return sleep_until_unless_stopped(watch.clock_ns(model_ns), stop_);
  }

  bool broadcast(const StepMessage& message, bool at_once) {
    for (ChannelWriter& rank : ranks_) {
      if (!rank.write(message) || (at_once && !rank.flush())) return false;
    }
    return true;
  }

  StepTransfers moved_by_connectors(const StepWork& work) const {
    const SchedulerCounts& counts = core_.model().counts();
    return {.load_requests = counts.load_requests,
            .load_blocks = counts.load_blocks,
            .store_blocks = counts.store_blocks,
            .decode_seqs = static_cast<std::uint32_t>(work.decode_seqs)};
  }

  void record_step(const StepWork& work, std::uint64_t began_ns, std::uint64_t tokens_ns,
                   const PhaseTimes& phases) {
    const SchedulerCounts counts = core_.take_counts();
    shared_.truth.observe(counts);
    shared_.steps = step_ + 1;
    shared_.clock_ns = tokens_ns - scale_.origin_ns;
    SchedulerStep record;
    record.stamp = plan_.real_clock() ? producer_.now() : tokens_ns;
    record.step = step_;
    record.num_running_reqs = counts.running;
    record.num_waiting_reqs = counts.waiting;
    record.num_skipped_waiting_reqs = counts.deferred;
    record.kv_cache_usage = counts.kv_cache_usage;
    record.prefix_cache_requests = counts.prefix_requests;
    record.prefix_cache_queries = counts.prefix_queries;
    record.prefix_cache_hits = counts.prefix_hits;
    record.external_prefix_cache_requests = counts.external_requests;
    record.external_prefix_cache_queries = counts.external_queries;
    record.external_prefix_cache_hits = counts.external_hits;
    if (step_ > 0) record.step_interval_ns = tokens_ns - last_tokens_ns_;
    if (plan_.options.engines > 1) {
      record.current_wave = wave_;
      shared_.features.activity.observe_wave(wave_);
    }
    producer_.record(record);
    if (counts.prefix_hit_blocks > 0) {
      SimulatedCache cache;
      cache.stamp = record.stamp;
      cache.hit_blocks = counts.prefix_hit_blocks;
      producer_.record(cache);
    }
    features_.record_step({.stamp = record.stamp,
                           .tokens_ns = tokens_ns,
                           .number = step_,
                           .elapsed_ns = tokens_ns - began_ns,
                           .phases = phases,
                           .work = work,
                           .counts = counts});
    last_tokens_ns_ = tokens_ns;
  }

  // Each front end hears of its own requests, and nothing of a step without any.
  bool send_outputs(std::uint64_t tokens_ns, std::span<const Output> outputs) {
    const auto count = static_cast<std::uint32_t>(front_ends_.size());
    for (std::vector<Output>& own : outputs_of_) own.clear();
    for (const Output& output : outputs) {
      outputs_of_[front_end_of(output.request, plan_.options.engines, count)].push_back(output);
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      if (!outputs_of_[i].empty() && !send_outputs(tokens_ns, outputs_of_[i], front_ends_[i])) {
        return false;
      }
    }
    return true;
  }

  bool send_outputs(std::uint64_t tokens_ns, std::span<const Output> outputs,
                    ChannelWriter& front_end) {
    const OutputsMessage message = {.tokens_ns = tokens_ns,
                                    .outputs = static_cast<std::uint32_t>(outputs.size())};
    return front_end.write(message) &&
           front_end.write_bytes(outputs.data(), outputs.size_bytes()) &&
           (!(plan_.real_clock() || paced()) || front_end.flush());
  }

  // An engine that was stopped with requests in it does not fall asleep.
  bool send_end() {
    features_.finish();
    shared_.unfinished_requests = core_.unfinished();
    const OutputsMessage over = {
        .tokens_ns = clock_ns(),
        .last = 1,
        .sleep_level = core_.finished() ? plan_.options.features.sleep_level : 0};
    for (ChannelWriter& front_end : front_ends_) {
      if (!front_end.write(over) || !front_end.flush()) return false;
    }
    StepMessage end;
    end.last = 1;
    return broadcast(end, /*at_once=*/true);
  }

  ChildContext& context_;
  const RunPlan& plan_;
  EngineShared& shared_;
  const StopFlag& stop_;
  Producer& producer_;
  EngineCore core_;
  SchedulerFeatures features_;
  RankTimelines timelines_;
  std::vector<ChannelWriter> front_ends_;
  std::vector<std::vector<Output>> outputs_of_;  // by front end
  std::vector<ChannelWriter> ranks_;
  TimeScale scale_;
  std::uint64_t until_ns_ = 0;
  std::uint64_t virtual_ns_ = 0;
  std::uint64_t step_ = 0;
  std::uint64_t wave_ = 0;  // Times that this engine had run out of requests.
  std::uint64_t last_tokens_ns_ = 0;
};

}  // namespace

int run_scheduler(ChildContext& context) {
  OpenOptions options = context.producer_options();
  options.role = Role::scheduler;
  add_record_type<SimulatedCache>(options);
  SchedulerFeatures::add_record_types(context.plan.options.features, options);
  Producer producer = Producer::open(options);
  SchedulerProcess scheduler(context, producer);
  if (context.begin(producer) && scheduler.serve()) context.end();
  return 0;
}

}  // namespace rankbus::simulator
