// Ranks as processes of mpirun or srun, on one machine or many. They call MPI's own non-blocking collectives,
// each after a header that says what the rank is about to do (mpi_job.hpp).
#include <algorithm>
#include <climits>
#include <cstdlib>

#include "comm/mpi_job.hpp"
#include "tensor/error.hpp"

namespace tessera::mpi {

namespace {

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
      const auto guard = watchdog("MPI_Init_thread", timeout);
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

MPI_Datatype type_of(DType dtype) {
  static const MPI_Datatype types[] = {MPI_FLOAT, MPI_DOUBLE, MPI_INT32_T, MPI_UINT16_T};
  return types[static_cast<int>(dtype)];
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

MPI_Op reduction(const Call& call) {
  const auto made_of = [](MPI_User_function* function) {
    MPI_Op made = MPI_OP_NULL;
    MPI_CHECK(MPI_Op_create(function, 1, &made));
    return made;
  };
  using enum Reduce;
  static const MPI_Op sum_of_bf16 = made_of(reduce<bf16, sum>),
                      largest[] = {made_of(reduce<float, max>), made_of(reduce<double, max>), MPI_MAX,
                                   made_of(reduce<bf16, max>)};
  if (call.reduce == max) return largest[static_cast<int>(call.dtype)];
  return call.dtype == DType::bf16 ? sum_of_bf16 : MPI_SUM;
}

int size_of(MPI_Comm comm) {
  int size = 0;
  MPI_CHECK(MPI_Comm_size(comm, &size));
  return size;
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(Job& job, std::shared_ptr<Group> group, int rank, int size, std::string name,
                  std::shared_ptr<Journal> journal, std::vector<int> members = {})
      : Communicator(rank, size, std::move(name), std::move(journal), std::move(members)),
        job_(job),
        group_(std::move(group)) {}

  std::string transport() const override { return "mpi"; }

 private:
  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    if (std::max(in.size(), out.size()) > INT_MAX)
      throw Error(format("{}: MPI counts no further than {} elements", call.text(), INT_MAX));
    return job_.post(call, group_, in, out);
  }

  std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) override {
    const auto meeting = job_.post(call, group_, {}, {});
    meeting->wait();
    const Part part = part_of(meeting->theirs);
    const auto guard = watchdog("MPI_Comm_split", job_.timeout());  // it blocks, but every rank has arrived
    MPI_Comm comm = MPI_COMM_NULL;
    MPI_CHECK(MPI_Comm_split(group_->data, call.color < 0 ? MPI_UNDEFINED : call.color, part.rank, &comm));
    if (comm == MPI_COMM_NULL) return nullptr;
    return std::make_unique<MpiCommunicator>(job_, std::make_shared<Group>(comm), part.rank,
                                             static_cast<int>(part.members.size()), name, shared_journal(),
                                             part.members);
  }

  std::shared_ptr<void> do_busy(const std::string& what) override { return job_.busy(what); }

  Job& job_;
  std::shared_ptr<Group> group_;
};

/// The ranks that share this machine's cores.
int ranks_on_this_machine(std::chrono::duration<double> timeout) {
  const auto guard = watchdog("MPI_Comm_split_type", timeout);
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine));
  const int ranks = size_of(machine);
  MPI_CHECK(MPI_Comm_free(&machine));
  return ranks;
}

std::shared_ptr<Group> world(std::chrono::duration<double> timeout) {
  const auto guard = watchdog("MPI_Comm_dup", timeout);
  MPI_Comm copy = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &copy));
  return std::make_shared<Group>(copy);
}

}  // namespace

void Transfer::start() {
  const MPI_Datatype type = type_of((in.defined() ? in : out).dtype());
  const MPI_Comm comm = group->data;
  switch (mine.op) {
    case OpType::all_reduce: {
      // iall_reduce works in place, and MPI forbids two names for one buffer.
      const void* from = in.raw() == out.raw() ? MPI_IN_PLACE : in.raw();
      return MPI_CHECK(MPI_Iallreduce(from, out.raw(), count(in), type, reduction(mine), comm, &payload));
    }
    case OpType::all_gather:
      return MPI_CHECK(MPI_Iallgather(in.raw(), count(in), type, out.raw(), count(in), type, comm, &payload));
    case OpType::reduce_scatter:
      return MPI_CHECK(
          MPI_Ireduce_scatter_block(in.raw(), out.raw(), count(out), type, reduction(mine), comm, &payload));
    case OpType::broadcast:
      return MPI_CHECK(MPI_Ibcast(out.raw(), count(out), type, mine.peer, comm, &payload));
    case OpType::all_to_all: {
      const int n = size_of(comm);
      counts.resize(4 * static_cast<std::size_t>(n));
      int *const sent = counts.data(), *const sent_from = sent + n, *const got = sent_from + n,
                 *const got_at = got + n;
      for (int i = 0; i < n; ++i) {
        const Range to = mine.part_sent(i, n), from = mine.part_received(i, n);
        sent[i] = static_cast<int>(to.size() * mine.cols),
        sent_from[i] = static_cast<int>(to.begin * mine.cols);
        got[i] = static_cast<int>(from.size() * mine.cols),
        got_at[i] = static_cast<int>(from.begin * mine.cols);
      }
      return MPI_CHECK(
          MPI_Ialltoallv(in.raw(), sent, sent_from, type, out.raw(), got, got_at, type, comm, &payload));
    }
    case OpType::send:
      return MPI_CHECK(MPI_Issend(in.raw(), count(in), type, mine.peer, 0, comm, &payload));
    case OpType::recv:
      return MPI_CHECK(MPI_Irecv(out.raw(), count(out), type, mine.peer, 0, comm, &payload));
    case OpType::barrier:
      return MPI_CHECK(MPI_Ibarrier(comm, &payload));
    case OpType::split:
      return;
  }
}

bool built() { return true; }
int launched_size() { return launcher().size; }
int launched_rank() { return launcher().rank; }
int local_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"})
    if (std::getenv(name)) return variable(name);
  return 0;
}

void expect_processes(int ranks, std::chrono::duration<double> timeout) {
  initialise(timeout);
  if (const int started = size_of(MPI_COMM_WORLD); started != ranks)
    throw UsageError(
        format("--ranks {}, but MPI was started with {}; under srun, --mpi=pmix or pmi2 may be missing",
               ranks, started));
}

void send_message(const std::string& text, int to) { post_message(text, to, store_tag); }
std::optional<std::string> receive_message() { return next_message(store_tag); }

void broadcast_bytes(void* data, int bytes, int root) {
  const auto timeout = LaunchOptions{}.timeout;
  initialise(timeout);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_CHECK(MPI_Ibcast(data, bytes, MPI_BYTE, root, MPI_COMM_WORLD, &request));
  const auto start = std::chrono::steady_clock::now();
  for (int idle = 0; !test(request); pause(++idle))
    expect(std::chrono::steady_clock::now() - start < timeout,
           format("broadcast_bytes from process {}: no progress for {:g} s", root, timeout.count()));
}

void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  expect_processes(options.ranks, options.timeout);
  Job job(options);
  try {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    const int threads = math_threads_or(std::max(1, cores / ranks_on_this_machine(options.timeout)), 1);
    run_rank(Device::make(DeviceKind::cpu), job.rank(), options, threads, [&] {
      MpiCommunicator comm(job, world(options.timeout), job.rank(), job.size(), "world",
                           std::make_shared<Journal>());
      body(comm);
    });
    job.finish();
  } catch (...) {
    job.fail();
  }
}

}  // namespace tessera::mpi
