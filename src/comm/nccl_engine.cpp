#include "comm/nccl_engine.hpp"

#include <algorithm>
#include <cstring>
#include <thread>

namespace tessera::nccl {

void check(ncclResult_t result, const char* call, Where where) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw Error(
      str(place(where), ": ", call, ": ", ncclGetErrorString(result), ", ", ncclGetLastError(nullptr)));
}

Line::~Line() {
  if (mailbox) cudaFreeHost(mailbox);
  if (owns_stream) cudaStreamDestroy(stream);
}

bool Line::settled() const {
  ncclResult_t state = ncclSuccess;
  NCCL_CHECK(ncclCommGetAsyncError(comm, &state));
  check(state, "a call that NCCL had accepted");
  return state == ncclSuccess;
}

Engine::Engine(World& world, int world_rank, CudaDevice& device, const LaunchOptions& options)
    : world_(world),
      world_rank_(world_rank),
      device_(device),
      timeout_(options.timeout),
      verify_(options.verify),
      moved_(std::chrono::steady_clock::now()) {
  device_.while_waiting = [this](Time began) { look(began, false); };
}

Engine::~Engine() {
  device_.while_waiting = nullptr;
  abort();
}

ncclConfig_t Engine::config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

Line& Engine::add_line(std::size_t longest_letter, int ranks) {
  device_.activate();
  Line& line = *lines_.emplace_back(std::make_unique<Line>());
  line.stream = device_.stream(Stream::communication);
  line.longest_letter = longest_letter;
  if (longest_letter > 0)
    CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&line.mailbox),
                              longest_letter * (static_cast<std::size_t>(ranks) + 1)));
  return line;
}

void Engine::connect(Line& line, int ranks, int rank, const ncclUniqueId& id) {
  device_.activate();
  ncclConfig_t options = config();
  if (line.owns_stream) options.maxCTAs = 4;  // many channels wait at once, and compute needs the rest
  NCCL_CHECK(ncclCommInitRankConfig(&line.comm, ranks, id, rank, &options));
}

Line& Engine::open_channel(int rank, const ncclUniqueId& id) {
  Line& line = add_line(0, 2);
  CUDA_CHECK(cudaStreamCreateWithFlags(&line.stream, cudaStreamNonBlocking));
  line.owns_stream = true;
  connect(line, 2, rank, id);
  return line;
}

std::shared_ptr<Task> Engine::post(Line& line, Task task) {
  expect(task.letter.size() <= line.longest_letter, "a letter does not fit its mailbox");
  task.ready = device_.record();
  auto shared = std::make_shared<Task>(std::move(task));
  line.tasks.push_back(shared);
  pending_.push_back(shared);
  look(std::chrono::steady_clock::now(), false);
  return shared;
}

/// Moves the first task of the line as far as it goes without waiting, then the next. An event is recorded
/// only when NCCL has settled: until then the kernel may not be in the stream.
void Engine::advance(Line& line) {
  while (!line.tasks.empty() && line.settled()) {
    Task& task = *line.tasks.front();
    if (task.stage == Task::posted && !task.letter.empty()) {
      std::memcpy(line.mailbox, task.letter.data(), task.letter.size());
      NCCL_CHECK(ncclAllGather(line.mailbox, line.mailbox + line.longest_letter, task.letter.size(), ncclInt8,
                               line.comm, line.stream));
      task.stage = Task::mailing;
    } else if (task.stage == Task::mailing) {
      if (!task.delivered) task.delivered = device_.record(line.stream);
      if (!device_.reached(task.delivered)) return;
      task.open(line.mailbox + line.longest_letter);
      task.stage = Task::opened;
    } else if (task.stage != Task::issued && task.issue) {
      device_.wait(line.stream, task.ready);
      NCCL_CHECK(task.issue(line.comm, line.stream));
      task.stage = Task::issued;
    } else {
      if (task.stage == Task::issued) task.done = device_.record(line.stream);
      task.stage = Task::finished;
      line.tasks.pop_front();
    }
  }
}

/// One look at everything under way, from a wait that `began` then. The time-out counts from when a call
/// could start: before, it is the compute stream that takes its time.
void Engine::look(Time began, bool setting_up) {
  world_.check();
  device_.activate();
  try {
    for (const auto& line : lines_)
      if (line->comm) advance(*line);
  } catch (const Error& error) {  // from here on every look throws: no task moves on after its line broke
    world_.report(str("rank ", world_rank_, ": ", error.what()));
    throw;
  }
  const auto now = std::chrono::steady_clock::now();
  if (std::erase_if(pending_, [&](const auto& task) {
        return task->stage == Task::finished && device_.reached(task->done);
      }) > 0)
    moved_ = now;
  const bool stalled = pending_.empty() ? setting_up : device_.reached(pending_.front()->ready);
  if (!stalled || now - std::max(began, moved_) < timeout_) return;
  if (!pending_.empty()) world_.back_at(world_rank_, pending_.front()->doing);
  world_.report_stall();
  world_.check();
}

void Engine::until(const std::function<bool()>& reached, bool setting_up) {
  const auto began = std::chrono::steady_clock::now();
  while (!reached()) {
    look(began, setting_up);
    std::this_thread::yield();
  }
}

void Engine::wait(const std::shared_ptr<Task>& task) {
  world_.back_at(world_rank_, task->doing);
  until([&] { return task->stage == Task::finished; }, false);
  world_.left(world_rank_);
  device_.wait(task->done);
  task->issue = nullptr;  // its tensors: from here on the order of the compute stream protects them
}

void Engine::abandon(const Task& task) {
  // A rank that unwinds drops its requests; a rank that does not forgot to wait.
  if (std::uncaught_exceptions() == 0)
    world_.report(str("rank ", world_rank_, " never waited for its ", task.doing));
}

void Engine::settle(Line& line) {
  until([&] { return line.settled(); }, true);
}

void Engine::close() {
  world_.check();
  device_.activate();
  // All are asked before one is waited for: the ranks hold their lines in different orders.
  for (const auto& line : lines_)
    if (line->comm) NCCL_CHECK(ncclCommFinalize(line->comm));
  for (const auto& line : lines_)
    if (line->comm) settle(*line);
  for (const auto& line : lines_)
    if (line->comm) NCCL_CHECK(ncclCommDestroy(std::exchange(line->comm, nullptr)));
}

void Engine::abort() {
  for (const auto& line : lines_)
    if (line->comm) ncclCommAbort(std::exchange(line->comm, nullptr));
}

}  // namespace tessera::nccl
