#include <rankbus/producer/simulator/processes.hpp>
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
              plan_.options.engines),
        timelines_(plan_.options.seed, context.engine_index, plan_.options.tp,
                   plan_.options.collectives),
        front_end_(*context.engine.front_end, stop_) {
    for (Channel* channel : context.engine.ranks) ranks_.emplace_back(*channel, stop_);
    shared_.refused_requests = core_.refused();
  }

  // Serves all requests; false when the simulation was stopped.
  bool serve() {
    scale_ = context_.time_scale();
    core_.set_time_scale(scale_);
    while (!core_.finished()) {
      const std::uint64_t now_ns = clock_ns();
      core_.admit_arrivals(now_ns);
      if (!(core_.idle() ? wait_for_arrival() : run_step(now_ns))) return false;
    }
    return send_end();
  }

 private:
  std::uint64_t clock_ns() const { return plan_.real_clock() ? monotonic_now_ns() : virtual_ns_; }

  bool wait_for_arrival() {
    const std::uint64_t arrival_ns = core_.next_arrival_ns();
    if (plan_.real_clock()) return sleep_until_unless_stopped(arrival_ns, stop_);
    virtual_ns_ = arrival_ns;
    return true;
  }

  bool run_step(std::uint64_t now_ns) {
    const StepWork& work = core_.begin_step(now_ns);
    const StepMessage message = {.step = step_,
                                 .cost = step_cost(plan_.times, work, core_.model().running()),
                                 .padded_tokens = padded_tokens(work)};
    const bool computed =
        plan_.real_clock() ? compute_real(message) : compute_virtual(message, now_ns);
    if (!computed) return false;
    const std::uint64_t tokens_ns = clock_ns();
    const auto outputs = core_.end_step();
    record_step(tokens_ns);
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

  void record_step(std::uint64_t tokens_ns) {
    const SchedulerCounts counts = core_.take_counts();
    shared_.truth.scheduler.observe(counts);
    shared_.steps = step_ + 1;
    shared_.clock_ns = tokens_ns - scale_.origin_ns;
    SchedulerStep record;
    record.stamp = plan_.real_clock() ? producer_.now() : tokens_ns;
    record.step = step_;
    record.num_running_reqs = counts.running;
    record.num_waiting_reqs = counts.waiting;
    record.kv_cache_usage = counts.kv_cache_usage;
    record.prefix_cache_requests = counts.prefix_requests;
    record.prefix_cache_queries = counts.prefix_queries;
    record.prefix_cache_hits = counts.prefix_hits;
    if (step_ > 0) record.step_interval_ns = tokens_ns - last_tokens_ns_;
    producer_.record(record);
    if (counts.prefix_hit_blocks > 0) {
      SimulatedCache cache;
      cache.stamp = record.stamp;
      cache.hit_blocks = counts.prefix_hit_blocks;
      producer_.record(cache);
    }
    last_tokens_ns_ = tokens_ns;
  }

  bool send_outputs(std::uint64_t tokens_ns, std::span<const Output> outputs) {
    if (outputs.empty()) return true;
    const OutputsMessage message = {.tokens_ns = tokens_ns,
                                    .outputs = static_cast<std::uint32_t>(outputs.size())};
    return front_end_.write(message) &&
           front_end_.write_bytes(outputs.data(), outputs.size_bytes()) &&
           (!(plan_.real_clock() || paced()) || front_end_.flush());
  }

  bool send_end() {
    StepMessage end;
    end.last = 1;
    return broadcast(end, /*at_once=*/true) && front_end_.write(OutputsMessage{.last = 1}) &&
           front_end_.flush();
  }

  ChildContext& context_;
  const RunPlan& plan_;
  EngineShared& shared_;
  const StopFlag& stop_;
  Producer& producer_;
  EngineCore core_;
  RankTimelines timelines_;
  ChannelWriter front_end_;
  std::vector<ChannelWriter> ranks_;
  TimeScale scale_;
  std::uint64_t virtual_ns_ = 0;
  std::uint64_t step_ = 0;
  std::uint64_t last_tokens_ns_ = 0;
};

}  // namespace

int run_scheduler(ChildContext& context) {
  OpenOptions options = context.producer_options();
  options.role = Role::scheduler;
  options.records[0] = record_type<SimulatedCache>();
  Producer producer = Producer::open(options);
  SchedulerProcess scheduler(context, producer);
  if (context.begin(producer) && scheduler.serve()) context.end();
  return 0;
}

}  // namespace rankbus::simulator
