#include <algorithm>
#include <limits>
#include <rankbus/producer/simulator/processes.hpp>
#include <rankbus/producer/simulator/rank_connectors.hpp>

namespace rankbus::simulator {

namespace {

std::uint32_t saturated(std::uint64_t ticks) {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(ticks, std::numeric_limits<std::uint32_t>::max()));
}

class RankProcess {
 public:
  RankProcess(ChildContext& context, std::uint32_t rank, Producer& producer)
      : plan_(context.plan),
        context_(context),
        rank_(rank),
        stop_(context.simulation.stop),
        producer_(producer),
        timelines_(plan_.options.seed, context.engine_index, plan_.options.tp,
                   plan_.options.collectives),
        jitter_(plan_.options.seed, context.engine_index, rank),
        barrier_(context.engine.shared->barrier, plan_.options.tp, stop_),
        connectors_(plan_, context.engine_index, rank, producer,
                    context.engine.rank_shares[rank]->features),
        steps_(*context.engine.ranks[rank], stop_) {}

  // Follows the scheduler to its end; false when the simulation was stopped.
  bool serve() {
    scale_ = context_.time_scale();
    connectors_.start(producer_.now());
    for (;;) {
      StepMessage message;
      if (!steps_.read(message)) return false;
      if (message.last != 0) return true;
      if (!plan_.real_clock()) {
        replay(message);
      } else if (!work(message)) {
        return false;
      }
    }
  }

 private:
  void replay(const StepMessage& message) {
    timelines_.advance(plan_.times, message.step, message.broadcast_ns, message.cost);
    for (const CollectiveTimes& times : timelines_.collectives(rank_)) {
      record_collective(message.step, times.entry_ns, times.exit_ns);
    }
    const RankStepTimes& times = timelines_.rank(rank_);
    WorkerStep record = step_record(message);
    record.stamp = times.dequeued_ns;
    record.entered = times.entered_ns;
    record.launched = times.launched_ns;
    record.output_ready = times.output_ready_ns;
    record.prepare_ns = times.launched_ns - times.entered_ns;
    record.forward_ns = times.forward_end_ns - times.launched_ns;
    record.sample_ns = times.output_ready_ns - times.forward_end_ns;
    producer_.record(record);
    connectors_.record_step(record.output_ready, message.step, message.moved);
  }

  // The same step, slept for real. Stamps are the segment's ticks, durations are measured.
  bool work(const StepMessage& message) {
    WorkerStep record = step_record(message);
    record.stamp = producer_.now();
    if (!sleep_model(plan_.times.enter_ns)) return false;
    record.entered = producer_.now();
    const std::uint64_t entered_ns = monotonic_now_ns();
    if (!sleep_jittered(message.cost.prepare_ns, message.step, Jitter::kPrepare)) return false;
    record.launched = producer_.now();
    const std::uint64_t launched_ns = monotonic_now_ns();
    if (!forward(message)) return false;
    const std::uint64_t forward_end_ns = monotonic_now_ns();
    if (!sleep_jittered(message.cost.sample_ns, message.step, Jitter::kSample)) return false;
    record.output_ready = producer_.now();
    record.prepare_ns = launched_ns - entered_ns;
    record.forward_ns = forward_end_ns - launched_ns;
    record.sample_ns = monotonic_now_ns() - forward_end_ns;
    producer_.record(record);
    connectors_.record_step(record.output_ready, message.step, message.moved);
    if (rank_ == 0) context_.engine.shared->output_ready.post();
    return true;
  }

  bool forward(const StepMessage& message) {
    const std::uint32_t collectives = plan_.options.collectives;
    const SegmentCost segment = segment_cost(message.cost, collectives);
    for (std::uint32_t i = 0; i < std::max(collectives, 1u); ++i) {
      if (!sleep_jittered(segment.compute_ns, message.step, Jitter::kFirstCollective + i)) {
        return false;
      }
      if (collectives == 0) continue;
      const std::uint64_t entry = producer_.now();
      if (!barrier_.arrive_and_wait() || !sleep_model(segment.communicate_ns)) return false;
      record_collective(message.step, entry, producer_.now());
    }
    return true;
  }

  bool sleep_model(std::uint64_t model_ns) {
    return sleep_until_unless_stopped(monotonic_now_ns() + scale_.duration_ns(model_ns), stop_);
  }
  bool sleep_jittered(std::uint64_t model_ns, std::uint64_t step, std::uint64_t ordinal) {
    return sleep_model(jitter_.stretched_ns(model_ns, step, ordinal));
  }

  void record_collective(std::uint64_t step, std::uint64_t entry, std::uint64_t exit) {
    Collective record;
    record.entry = entry;
    record.duration = saturated(exit - entry);
    record.group = 0;  // The only axis, tensor parallelism.
    record.step = static_cast<std::uint32_t>(step);
    record.ordinal = ordinal_++;
    producer_.record(record);
  }

  static WorkerStep step_record(const StepMessage& message) {
    WorkerStep record;
    record.step = message.step;
    record.padded_tokens = message.padded_tokens;
    return record;
  }

  const RunPlan& plan_;
  ChildContext& context_;
  std::uint32_t rank_;
  const StopFlag& stop_;
  Producer& producer_;
  RankTimelines timelines_;  // virtual clock
  Jitter jitter_;            // real clock
  BarrierMember barrier_;
  RankConnectors connectors_;
  ChannelReader steps_;
  TimeScale scale_;
  std::uint32_t ordinal_ = 0;  // wraps, as the record's field does
};

}  // namespace

int run_rank(ChildContext& context, std::uint32_t rank) {
  OpenOptions options = context.producer_options();
  options.role = Role::worker;
  options.axes[0] = {"tp", rank, context.plan.options.tp};
  RankConnectors::add_record_types(context.plan.options.features, options);
  Producer producer = Producer::open(options);
  RankProcess process(context, rank, producer);
  if (context.begin(producer) && process.serve()) context.end();
  return 0;
}

}  // namespace rankbus::simulator
