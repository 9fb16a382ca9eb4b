// The parent: makes the shared memory, forks one process per scheduler, front end and rank, watches
// them, and writes the truth when all have published their last record.
#pragma once

#include <sys/types.h>

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <functional>
#include <rankbus/producer/simulator/processes.hpp>
#include <string>
#include <vector>

namespace rankbus::simulator {

class Simulation {
 public:
  explicit Simulation(RunPlan plan);
  // No child outlives the simulation.
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  // Runs to the end or to a signal and returns the exit status, 0 or 1.
  int run();

 private:
  struct Child {
    pid_t pid = 0;  // 0 once reaped
    std::string name;
    ChildReport* report = nullptr;
  };
  enum class Watched { reached, interrupted, failed };

  template <class T>
  T* make_shared_object();
  bool start_children();
  bool start_child(std::uint32_t engine, const std::string& part, const std::string& short_name,
                   const std::function<int(ChildContext&)>& body);
  int run_child(std::uint32_t engine, ChildReport& report, const std::string& name,
                const std::function<int(ChildContext&)>& body);

  // Waits until `reached` says so, a signal ends the simulation, or a child fails. While lingering,
  // a child that dies is reported and the others go on.
  Watched watch(const std::function<bool()>& reached, bool lingering = false);
  Watched reap_children(bool lingering);
  Watched wait_while_held();
  void warn_about_inert_producers() const;
  void show_progress();
  void write_truth() const;
  void print_summary() const;
  int linger_and_release();
  void end_children(bool release);

  RunPlan plan_;
  boost::interprocess::mapped_region memory_;
  std::size_t memory_used_ = 0;
  SimulationShared* shared_ = nullptr;
  std::vector<EngineLinks> engines_;
  std::vector<Child> children_;
  std::uint64_t started_ns_ = 0;
  std::uint64_t next_progress_ns_ = 0;
};

}  // namespace rankbus::simulator
