// Ranks as processes of mpirun or srun, on one machine or many. They call MPI's own non-blocking collectives,
// each after a header that says what the rank is about to do (mpi_job.hpp).
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <list>
#include <numeric>

#include "comm/mpi_job.hpp"
#include "tensor/error.hpp"

namespace tessera::mpi {

namespace {

constexpr int store_tag = 2;  // on MPI_COMM_WORLD, beside a job's notices

int variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : 0;
}

struct Launcher {
  int size, rank;
};

/// What started this process. Open MPI's mpirun has variables of its own; those of PMI are set by the mpiexec
/// of MPICH and Intel, and by srun. The shell that sbatch or salloc starts is no launcher. It has
/// SLURM_NTASKS, and may be a step of one task with a PMI of its own, so a single process of Slurm counts as
/// not launched.
Launcher launcher() {
  if (const int size = variable("OMPI_COMM_WORLD_SIZE")) return {size, variable("OMPI_COMM_WORLD_RANK")};
  const bool step = std::getenv("SLURM_STEP_ID") != nullptr;
  if (const int size = variable("PMI_SIZE"); size > (step ? 1 : 0)) return {size, variable("PMI_RANK")};
  if (const int size = variable("SLURM_STEP_NUM_TASKS"); step && size > 1)
    return {size, variable("SLURM_PROCID")};
  return {0, 0};
}

/// MPI lives from its first use to the end of the process.
void initialise(std::chrono::duration<double> timeout) {
  struct Library {
    explicit Library(std::chrono::duration<double> timeout) {
      const Watchdog watchdog("MPI_Init_thread", timeout);
      int provided = 0;
      MPI_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided));
      expect(provided >= MPI_THREAD_SERIALIZED, "this MPI was built without support for threads");
      MPI_CHECK(
          MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));  // its communicators inherit that
    }
    ~Library() { MPI_Finalize(); }  // waits for all processes: each comes here or is killed with the job
  };
  static const Library library(timeout);
}

class MpiWork final : public Work {
 public:
  MpiWork(Job& job, std::shared_ptr<Transfer> transfer) : job_(job), transfer_(std::move(transfer)) {}
  void wait() override { job_.wait(transfer_); }
  void abandon() override { job_.abandon(transfer_); }

 private:
  Job& job_;
  std::shared_ptr<Transfer> transfer_;
};

MPI_Datatype type(const Tensor& x) {
  static const MPI_Datatype types[] = {MPI_FLOAT, MPI_DOUBLE, MPI_INT32_T, MPI_UINT16_T};  // by DType
  return types[static_cast<int>(x.dtype())];
}
int count(const Tensor& x) { return static_cast<int>(x.size()); }
/// MPI_MAX may lose a NaN; here a NaN wins, as on the other transports. MPI knows no bf16, which travels as
/// 16 bits; here each sum of two is made in f32 and rounded.
template <class T, Reduce how>
void reduce(void* in, void* inout, int* length, MPI_Datatype*) {
  const T* from = static_cast<const T*>(in);
  T* to = static_cast<T*>(inout);
  for (int i = 0; i < *length; ++i)
    if (how == Reduce::sum || from[i] > to[i] || from[i] != from[i])
      to[i] = how == Reduce::sum ? T(to[i] + from[i]) : from[i];
}

MPI_Op op(const Call& call) {
  const auto made_of = [](MPI_User_function* function) {
    MPI_Op made = MPI_OP_NULL;
    MPI_CHECK(MPI_Op_create(function, 1, &made));
    return made;
  };
  using enum Reduce;
  static const MPI_Op sum_of_bf16 = made_of(reduce<bf16, sum>),
                      largest[] = {made_of(reduce<float, max>), made_of(reduce<double, max>), MPI_MAX,
                                   made_of(reduce<bf16, max>)};  // by DType
  if (call.reduce == max) return largest[static_cast<int>(call.dtype)];
  return call.dtype == DType::bf16 ? sum_of_bf16 : MPI_SUM;
}

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_CHECK(MPI_Comm_rank(comm, &rank));
  return rank;
}
int size_of(MPI_Comm comm) {
  int size = 0;
  MPI_CHECK(MPI_Comm_size(comm, &size));
  return size;
}

std::vector<int> world_ranks(MPI_Comm comm) {
  MPI_Group group = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
  MPI_CHECK(MPI_Comm_group(comm, &group));
  MPI_CHECK(MPI_Comm_group(MPI_COMM_WORLD, &world));
  std::vector<int> ranks(static_cast<std::size_t>(size_of(comm))), members = ranks;
  std::iota(ranks.begin(), ranks.end(), 0);
  MPI_CHECK(
      MPI_Group_translate_ranks(group, static_cast<int>(ranks.size()), ranks.data(), world, members.data()));
  MPI_CHECK(MPI_Group_free(&group));
  MPI_CHECK(MPI_Group_free(&world));
  return members;
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(Job& job, std::shared_ptr<Group> group, std::string name, std::shared_ptr<Journal> journal)
      : Communicator(rank_in(group->data), size_of(group->data), std::move(name), std::move(journal),
                     world_ranks(group->data)),
        job_(job),
        group_(std::move(group)) {}

  std::string transport() const override { return "mpi"; }

 private:
  /// `start` may run after this communicator has died, so it captures tensors and numbers, never `this`.
  std::unique_ptr<Work> post(const Call& call, const Tensor& in, const Tensor& out, Transfer::Start start) {
    for (const Tensor& x : {in, out})
      if (x.defined() && x.size() > INT_MAX)
        throw Error(format("{}: MPI counts no further than {} elements", call.text(), INT_MAX));
    return std::make_unique<MpiWork>(job_, job_.post(call, group_, in, out, std::move(start)));
  }

  std::unique_ptr<Work> do_all_reduce(const Call& call, const TrafficKey&, const Tensor& in,
                                      const Tensor& out) override {
    model_wire(call, out.bytes());
    return post(call, in, out, [=](MPI_Comm comm, MPI_Request* request) {
      // iall_reduce works in place, and MPI forbids two names for one buffer.
      const void* from = in.raw() == out.raw() ? MPI_IN_PLACE : in.raw();
      MPI_CHECK(MPI_Iallreduce(from, out.raw(), count(in), type(in), op(call), comm, request));
    });
  }
  std::unique_ptr<Work> do_all_gather(const Call& call, const TrafficKey&, const Tensor& in,
                                      const Tensor& out) override {
    model_wire(call, out.bytes());
    return post(call, in, out, [=](MPI_Comm comm, MPI_Request* request) {
      MPI_CHECK(MPI_Iallgather(in.raw(), count(in), type(in), out.raw(), count(in), type(in), comm, request));
    });
  }
  std::unique_ptr<Work> do_reduce_scatter(const Call& call, const TrafficKey&, const Tensor& in,
                                          const Tensor& out) override {
    model_wire(call, in.bytes());
    return post(call, in, out, [=](MPI_Comm comm, MPI_Request* request) {
      MPI_CHECK(
          MPI_Ireduce_scatter_block(in.raw(), out.raw(), count(out), type(in), op(call), comm, request));
    });
  }
  std::unique_ptr<Work> do_broadcast(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    return post(call, x, x, [=](MPI_Comm comm, MPI_Request* request) {
      MPI_CHECK(MPI_Ibcast(x.raw(), count(x), type(x), call.peer, comm, request));
    });
  }
  std::unique_ptr<Work> do_send(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    return post(call, x, {}, [=](MPI_Comm comm, MPI_Request* request) {
      MPI_CHECK(MPI_Issend(x.raw(), count(x), type(x), call.peer, 0, comm, request));
    });
  }
  std::unique_ptr<Work> do_recv(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    return post(call, {}, x, [=](MPI_Comm comm, MPI_Request* request) {
      MPI_CHECK(MPI_Irecv(x.raw(), count(x), type(x), call.peer, 0, comm, request));
    });
  }
  std::unique_ptr<Work> do_barrier(const Call& call) override {
    return post(call, {}, {},
                [](MPI_Comm comm, MPI_Request* request) { MPI_CHECK(MPI_Ibarrier(comm, request)); });
  }

  std::unique_ptr<Communicator> do_split(const Call& call, int color, int key,
                                         const std::string& name) override {
    const auto made = std::make_shared<std::shared_ptr<Group>>();
    const auto timeout = job_.timeout();
    post(call, {}, {}, [=](MPI_Comm comm, MPI_Request*) {
      const Watchdog watchdog("MPI_Comm_split",
                              timeout);  // it blocks, but every rank of the group has arrived
      MPI_Comm part = MPI_COMM_NULL;
      MPI_CHECK(MPI_Comm_split(comm, color < 0 ? MPI_UNDEFINED : color, key, &part));
      if (part != MPI_COMM_NULL) *made = std::make_shared<Group>(part);
    })->wait();
    if (!*made) return nullptr;
    return std::make_unique<MpiCommunicator>(job_, *made, name, shared_journal());
  }

  std::unique_ptr<Busy> do_busy(const std::string& what) override { return job_.busy(what); }

  Job& job_;
  std::shared_ptr<Group> group_;
};

std::shared_ptr<Group> world(std::chrono::duration<double> timeout) {
  const Watchdog watchdog("MPI_Comm_dup", timeout);
  MPI_Comm copy = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &copy));
  return std::make_shared<Group>(copy);
}

int ranks_on_this_machine(std::chrono::duration<double> timeout) {
  const Watchdog watchdog("MPI_Comm_split_type", timeout);
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine));
  const int ranks = size_of(machine);
  MPI_CHECK(MPI_Comm_free(&machine));
  return ranks;
}

}  // namespace

bool built() { return true; }
int launched_size() { return launcher().size; }
int launched_rank() { return launcher().rank; }
int local_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"})
    if (std::getenv(name)) return variable(name);
  return 0;
}

void expect_processes(int ranks) {
  initialise(LaunchOptions{}.timeout);
  if (const int started = size_of(MPI_COMM_WORLD); started != ranks)
    throw UsageError(
        format("--ranks {}, but MPI was started with {}; under srun, --mpi=pmix or pmi2 may be missing",
               ranks, started));
}

void send_message(const std::string& text, int to) {
  static std::list<std::pair<std::string, MPI_Request>>
      under_way;  // a list, because MPI reads from its texts
  auto& message = under_way.emplace_back(text, MPI_REQUEST_NULL);
  MPI_CHECK(MPI_Isend(message.first.data(), static_cast<int>(message.first.size()), MPI_BYTE, to, store_tag,
                      MPI_COMM_WORLD, &message.second));
  std::erase_if(under_way, [](auto& each) { return test(each.second); });
}

std::optional<std::string> receive_message() {
  int there = 0, bytes = 0;
  MPI_Status status;
  MPI_CHECK(MPI_Iprobe(MPI_ANY_SOURCE, store_tag, MPI_COMM_WORLD, &there, &status));
  if (!there) return std::nullopt;
  MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &bytes));
  std::string text(static_cast<std::size_t>(bytes), ' ');
  MPI_CHECK(MPI_Recv(text.data(), bytes, MPI_BYTE, status.MPI_SOURCE, store_tag, MPI_COMM_WORLD, &status));
  return text;
}

void broadcast_bytes(void* data, int bytes, int root) {
  const auto timeout = LaunchOptions{}.timeout;
  initialise(timeout);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_CHECK(MPI_Ibcast(data, bytes, MPI_BYTE, root, MPI_COMM_WORLD, &request));
  const auto start = std::chrono::steady_clock::now();
  for (Backoff backoff; !test(request); backoff.pause())
    expect(std::chrono::steady_clock::now() - start < timeout,
           format("broadcast_bytes from process {}: no progress for {:g} s", root, timeout.count()));
}

void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  initialise(options.timeout);
  expect_processes(options.ranks);
  Job job(options);
  try {
    const auto device = options.make_device(0, job.rank());
    const Device::Scope scope(device);
    // Ranks share the cores of their own machine.
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    set_math_threads(math_threads_or(std::max(1, cores / ranks_on_this_machine(options.timeout)), 1));
    {
      MpiCommunicator comm(job, world(options.timeout), "world", std::make_shared<Journal>());
      body(comm);
    }
    device->synchronize();
    job.finish();
  } catch (const UsageError& error) {
    job.fail(2, error.what());
  } catch (const std::exception& error) {
    job.fail(3, error.what());
  } catch (...) {
    job.fail(3, "an object that is no std::exception was thrown");
  }
}

}  // namespace tessera::mpi
