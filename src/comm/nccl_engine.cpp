#include "comm/nccl_engine.hpp"

#include <algorithm>
#include <thread>

namespace tessera::nccl {

void check(ncclResult_t result, const char* call, Where where) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw Error(
      format("{}: {}: {}, {}", place(where), call, ncclGetErrorString(result), ncclGetLastError(nullptr)));
}

Channel::~Channel() {
  if (stream) cudaStreamDestroy(stream);
}

bool Channel::settled() const {
  ncclResult_t state = ncclSuccess;
  NCCL_CHECK(ncclCommGetAsyncError(comm, &state));
  check(state, "a call that NCCL had accepted");
  return state == ncclSuccess;
}

Engine::Engine(World& world, int world_rank, CudaDevice& device, Store& store, const LaunchOptions& options)
    : world_(world),
      world_rank_(world_rank),
      device_(device),
      store_(store),
      options_(options),
      slab_size_(64 * (static_cast<std::size_t>(options.ranks) + 1)),
      moved_(std::chrono::steady_clock::now()) {
  device_.activate();
  CUDA_CHECK(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device_.ordinal()));
  device_.while_waiting = [this](Time began) { look(began, Patience::call); };
  device_.before_freeing = [this] {
    world_.back_at(world_rank_,
                   "waits until its calls under way are done, because it needs their GPU memory");
    until([this] { return pending_.empty(); }, Patience::connection);
  };
}

Engine::~Engine() {
  device_.while_waiting = nullptr;
  device_.before_freeing = nullptr;
  abort();
  for (Call* slab : slabs_) cudaFreeHost(slab);
}

/// A kernel starts when the GPU has room for all its blocks, and keeps the room until the other ranks'
/// kernels have run. Where two kernels do not fit together, and two ranks start them in different orders,
/// both wait for ever. So their blocks are limited: the collectives of six groups fit on a GPU at once, with
/// 14 messages beside them.
ncclConfig_t Engine::config(const Channel& channel) const {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.maxCTAs = channel.use == Use::collectives ? std::clamp(processors_ / 8, 1, 16)
                                                   : std::clamp(processors_ / 64, 1, 2);
  return config;
}

Channel& Engine::open(const std::string& key, const std::vector<int>& members, int rank, Use use) {
  if (rank == 0) {
    ncclUniqueId id{};
    NCCL_CHECK(ncclGetUniqueId(&id));
    for (const int member : members) store_.put(key, id, member);
  }
  Channel& channel = *channels_.emplace_back(std::make_unique<Channel>());
  channel.ranks = static_cast<int>(members.size());
  channel.rank = rank;
  channel.use = use;
  channel.key = key;
  return channel;
}

void Engine::connect(Channel& channel) {
  world_.back_at(world_rank_, "connects to the other ranks of its group");
  until([&] { return connected(channel); }, Patience::connection);
}

bool Engine::connected(Channel& channel) {
  if (!channel.comm) {
    const auto id = store_.get(channel.key);
    if (!id) return false;
    ncclConfig_t options = config(channel);
    NCCL_CHECK(ncclCommInitRankConfig(&channel.comm, channel.ranks, *id, channel.rank, &options));
  }
  return channel.settled();
}

/// Gives a channel what its first task needs. A GPU has 32 hardware queues, and streams beyond them wait for
/// one another: a rank should use no more than 30 channels. Pinned memory comes from slabs, since to ask for
/// it may wait until the GPU is idle; the first slab is there before any kernel waits.
void Engine::furnish(Channel& channel) {
  if (channel.stream) return;
  CUDA_CHECK(cudaStreamCreateWithFlags(&channel.stream, cudaStreamNonBlocking));
  const auto wanted = static_cast<std::size_t>(channel.ranks) + 1;
  if (slab_left_ < wanted) {
    Call* slab = nullptr;
    CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&slab), slab_size_ * sizeof(Call)));
    slabs_.push_back(slab);
    slab_left_ = slab_size_;
  }
  slab_left_ -= wanted;
  channel.headers = slabs_.back() + slab_left_;
}

std::shared_ptr<Task> Engine::post(Channel& channel, Call call, Tensor in, Tensor out) {
  world_.enter(call);
  device_.activate();
  furnish(channel);
  auto task = std::make_shared<Task>(*this, channel, call, std::move(in), std::move(out));
  task->ready = device_.record();
  channel.tasks.push_back(task);
  pending_.push_back(task);
  look(std::chrono::steady_clock::now(), Patience::call);
  return task;
}

/// Moves the first task of the channel as far as it goes without waiting, then the next. An event is recorded
/// only when NCCL has settled, because until then the kernel may not be in the stream.
void Engine::advance(Channel& channel) {
  while (!channel.tasks.empty() && connected(channel)) {
    Task& task = *channel.tasks.front();
    if (task.stage == Task::posted && task.compares) {
      channel.headers[0] = task.mine;
      NCCL_CHECK(ncclAllGather(channel.headers, channel.headers + 1, sizeof(Call), ncclInt8, channel.comm,
                               channel.stream));
      task.stage = Task::exchanging;
    } else if (task.stage == Task::exchanging) {
      if (!task.delivered) task.delivered = device_.record(channel.stream);
      if (!device_.reached(task.delivered)) return;
      task.stage = Task::matched;
      task.theirs.assign(channel.headers + 1, channel.headers + 1 + channel.ranks);
      if (const std::string text = mismatch(task.theirs); !text.empty()) world_.report(text);
      world_.check();
    } else if (task.stage != Task::issued && task.mine.moves_data()) {
      device_.wait(channel.stream, task.ready);
      if (options_.trace) task.began = device_.mark(channel.stream);
      NCCL_CHECK(task.issue());
      task.stage = Task::issued;
    } else {
      if (task.stage == Task::issued) task.done = device_.record(channel.stream);
      if (options_.trace && task.done) task.ended = device_.mark(channel.stream);
      task.stage = Task::finished;
      channel.tasks.pop_front();
    }
  }
}

/// Moves everything under way on, from a wait that `began` then, and ends the wait where it has stalled.
void Engine::look(Time began, Patience patience) {
  world_.check();
  device_.activate();
  try {
    for (const auto& channel : channels_) {
      advance(*channel);
      if (channel->comm) channel->settled();  // throws where a kernel or another process has failed
    }
  } catch (const Error& error) {  // from here on every look throws: no task moves on after its channel broke
    world_.report(format("rank {}: {}", world_rank_, error.what()));
    throw;
  }
  const auto now = std::chrono::steady_clock::now();
  if (std::erase_if(pending_, [&](const auto& task) {
        return task->stage == Task::finished && device_.reached(task->done);
      }) > 0)
    moved_ = now;
  const auto awaited = std::ranges::find_if(pending_, [](const auto& task) { return task->awaited; });
  if (awaited != pending_.end()) world_.back_at(world_rank_, "waits in " + (*awaited)->doing);
  const auto waited = now - std::max(began, moved_);
  if (patience == Patience::endless || waited < options_.timeout) return;
  if (patience == Patience::call && !stalled(waited)) return;
  world_.report_stall();
  world_.check();
}

/// Earlier work of our own GPU takes as long as it takes. A call that other ranks have yet to make may wait
/// for the time-out. Once the headers have met, all ranks have made the call, and it waits for their GPUs
/// alone: ten times the time-out, after which a GPU or a network must have stopped.
bool Engine::stalled(std::chrono::duration<double> waited) const {
  for (const auto& task : pending_) {
    if (!task->awaited) continue;
    const auto first = std::find_if(pending_.begin(), pending_.end(),
                                    [&](const auto& other) { return &other->channel == &task->channel; });
    const Task& front = **first;  // the earliest call of its channel, which is in the way of the others
    const bool met = front.compares && front.stage >= Task::matched;
    const bool needs_gpu = met || !front.compares;
    if (needs_gpu && !device_.reached(front.ready)) continue;
    if (waited >= (met ? 10 : 1) * options_.timeout) return true;
  }
  return false;
}

void Engine::until(const std::function<bool()>& reached, Patience patience) {
  const auto began = std::chrono::steady_clock::now();
  while (!reached()) {
    look(began, patience);
    std::this_thread::yield();
  }
}

void Engine::wait(Task& task) {
  task.awaited = true;
  world_.begin_wait(task.mine);
  until([&] { return task.stage == Task::finished; }, Patience::call);
  device_.wait(task.done);
  if (task.gathered.defined()) task.take_maximum();
  task.in = task.out = task.gathered = {};  // from here on the order of the compute stream protects them
  world_.back_at(world_rank_, "is outside any call, after " + task.doing);
}

void Engine::close() {
  world_.check();
  device_.activate();
  // All are asked before one is waited for, and all are destroyed in one NCCL group, because the ranks of a
  // machine do both together, and they hold their channels in different orders.
  for (const auto& channel : channels_)
    if (channel->comm) NCCL_CHECK(ncclCommFinalize(channel->comm));
  for (const auto& channel : channels_)
    if (channel->comm) until([&] { return channel->settled(); }, Patience::endless);
  NCCL_CHECK(ncclGroupStart());
  for (const auto& channel : channels_)
    if (channel->comm) NCCL_CHECK(ncclCommDestroy(std::exchange(channel->comm, nullptr)));
  NCCL_CHECK(ncclGroupEnd());
}

/// All aborts form one NCCL group, which first tells all kernels to end. A single abort may wait until the
/// GPU is idle, and so for the kernels of communicators that would be aborted after it.
void Engine::abort() {
  ncclGroupStart();
  for (const auto& channel : channels_)
    if (channel->comm) ncclCommAbort(std::exchange(channel->comm, nullptr));
  ncclGroupEnd();
}

}  // namespace tessera::nccl
