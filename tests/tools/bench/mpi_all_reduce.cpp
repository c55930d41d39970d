// mpirun -n 2 tessera_mpi_all_reduce BYTES BYTES: the median seconds of MPI's own all-reduce of f32, of each
// size.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int i = 1; i < argc; ++i) {
    const int elements = static_cast<int>(std::strtol(argv[i], nullptr, 10) / 4);
    const std::vector<float> in(static_cast<std::size_t>(elements), 1);
    std::vector<float> out(in.size());
    std::vector<double> seconds;
    for (int turn = 0; turn < (elements > 65536 ? 11 : 1001); ++turn) {
      MPI_Barrier(MPI_COMM_WORLD);
      const double begin = MPI_Wtime();
      MPI_Allreduce(in.data(), out.data(), elements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      seconds.push_back(MPI_Wtime() - begin);
    }
    std::sort(seconds.begin(), seconds.end());
    if (rank == 0) std::printf("%.9f%c", seconds[seconds.size() / 2], i + 1 < argc ? ' ' : '\n');
  }
  MPI_Finalize();
}
