#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "tests/support/support.h"

/// The contract of a communicator, the same for every backend: each case is run by all ranks. What the others send is a function of their
/// rank, so that every rank can compute by a plain loop what must arrive.
namespace yard::test {

struct ContractCase {
  const char* name;
  void (*body)(Communicator&);
};

/// Element i of what `rank` brings to exchange number `salt`; whole numbers, exact in every dtype.
inline double contract_value(int rank, Index i, int salt = 0) { return static_cast<double>((rank * 37 + i * 11 + salt * 5) % 101) - 50; }

inline void set_value(const Tensor& tensor, Index i, double value) {
  switch (tensor.dtype()) {
    case DType::f32:
      tensor.data<float>()[i] = static_cast<float>(value);
      break;
    case DType::bf16:
      tensor.data<BFloat16>()[i] = static_cast<float>(value);
      break;
    case DType::f64:
      tensor.data<double>()[i] = value;
      break;
    case DType::i32:
      tensor.data<std::int32_t>()[i] = static_cast<std::int32_t>(value);
      break;
    default:
      tensor.data<std::int64_t>()[i] = static_cast<std::int64_t>(value);
  }
}

/// A tensor of rank's values.
inline Tensor contract_tensor(Stream& stream, Shape shape, DType dtype, int rank, int salt = 0) {
  Tensor result(stream, shape, dtype);
  for (Index i = 0; i < result.elements(); ++i) set_value(result, i, contract_value(rank, i, salt));
  return result;
}

inline const std::vector<DType> kEveryDType = {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64};
inline const std::vector<When> kEveryWhen = {When::overlapped, When::now};

/// What every case needs.
struct Bench {
  Stream stream{Device{}};
};

inline void contract_all_reduce(Communicator& comm) {
  Bench b;
  for (const DType dtype : {DType::f32, DType::f64, DType::i64}) {
    for (const Reduce reduce : {Reduce::sum, Reduce::max, Reduce::min}) {
      for (const When when : kEveryWhen) {
        for (const Shape shape : {Shape{}, Shape{0}, Shape{1}, Shape{1000}, Shape{7, 0}, Shape{7, 3, 2}}) {
          const Tensor x = contract_tensor(b.stream, shape, dtype, comm.rank(), 3);
          comm.all_reduce(b.stream, {"reduce"}, x, reduce, when).wait(b.stream);
          std::vector<double> expected(static_cast<std::size_t>(x.elements()));
          for (std::size_t i = 0; i < expected.size(); ++i) {
            double value = contract_value(0, static_cast<Index>(i), 3);
            for (int rank = 1; rank < comm.size(); ++rank) {
              const double other = contract_value(rank, static_cast<Index>(i), 3);
              value = reduce == Reduce::sum ? value + other : reduce == Reduce::max ? std::max(value, other) : std::min(value, other);
            }
            expected[i] = value;
          }
          expect_close(x, expected, 0, "all_reduce of " + shape.text() + " " + std::string(name_of(dtype)));
        }
      }
    }
  }
}

inline void contract_all_reduce_rounds_little(Communicator& comm) {
  Bench b;
  std::vector<double> expected(5000, 0.0);
  for (int rank = 0; rank < comm.size(); ++rank) {
    const auto values = to_f64(random_tensor({5000}, static_cast<std::uint64_t>(rank)));
    for (std::size_t i = 0; i < values.size(); ++i) expected[i] += values[i];
  }
  std::vector<Tensor> results;
  for (int again = 0; again < 2; ++again) {
    results.push_back(random_tensor({5000}, static_cast<std::uint64_t>(comm.rank())));
    comm.all_reduce(b.stream, {"reduce"}, results.back()).wait(b.stream);
    expect_close(results.back(), expected, 1e-6, "all_reduce of random values");
  }
  expect_same_bits(results[0], results[1], "all_reduce twice");
}

inline void contract_all_gather(Communicator& comm) {
  Bench b;
  for (const DType dtype : kEveryDType) {
    for (const When when : kEveryWhen) {
      for (const Shape shape : {Shape{0}, Shape{1}, Shape{9}, Shape{0, 4}, Shape{4, 0}, Shape{5, 3}, Shape{2, 3, 2}}) {
        std::array<Index, 4> extents{comm.size() * shape[0], shape[1], shape[2], 0};
        const Shape whole_shape(std::span<const Index>(extents.data(), static_cast<std::size_t>(shape.rank())));
        std::vector<double> expected;
        for (int rank = 0; rank < comm.size(); ++rank) {
          for (Index i = 0; i < shape.elements(); ++i) expected.push_back(contract_value(rank, i));
        }
        const Tensor part = contract_tensor(b.stream, shape, dtype, comm.rank());
        const Tensor whole = Tensor::zeros(b.stream, whole_shape, dtype);
        comm.all_gather(b.stream, {"gather"}, part, whole, when).wait(b.stream);
        expect_close(whole, expected, 0, "all_gather of " + shape.text() + " " + std::string(name_of(dtype)));

        const Tensor same = Tensor::zeros(b.stream, whole_shape, dtype);
        const Tensor own = same.row_range(comm.rank() * shape[0], shape[0]);
        for (Index i = 0; i < own.elements(); ++i) set_value(own, i, contract_value(comm.rank(), i));
        comm.all_gather(b.stream, {"gather"}, own, same, when).wait(b.stream);
        expect_close(same, expected, 0, "all_gather in place of " + shape.text() + " " + std::string(name_of(dtype)));
      }
    }
  }
}

inline void contract_reduce_scatter(Communicator& comm) {
  Bench b;
  for (const Index rows : {0, 1, 13, 3000}) {
    for (const bool in_place : {false, true}) {
      const Shape shape{comm.size() * rows, 3};
      const Tensor whole = random_tensor(shape, static_cast<std::uint64_t>(comm.rank()) + 100);
      const Tensor part = in_place ? whole.row_range(comm.rank() * rows, rows) : Tensor::zeros(b.stream, {rows, 3});
      std::vector<float> expected(static_cast<std::size_t>(rows * 3));
      for (int rank = 0; rank < comm.size(); ++rank) {
        const Tensor other = random_tensor(shape, static_cast<std::uint64_t>(rank) + 100);
        const float* values = other.data<float>() + comm.rank() * rows * 3;
        for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = rank == 0 ? values[i] : expected[i] + values[i];
      }
      comm.reduce_scatter(b.stream, {"scatter"}, whole, part, in_place ? When::now : When::overlapped).wait(b.stream);
      expect_same_bits(part, tensor_of({rows, 3}, expected), "reduce_scatter adds in rank order");
    }
  }
}

/// How many rows `from` sends to `to` in pattern `salt`: uneven, some none; pattern 0 sends nothing at all.
inline Index contract_count(int from, int to, int salt) { return salt == 0 ? 0 : (from * 5 + to * 3 + salt) % 4 * salt; }

inline std::vector<Index> counts_from(const Communicator& comm, int from, int salt) {
  std::vector<Index> result;
  for (int to = 0; to < comm.size(); ++to) result.push_back(contract_count(from, to, salt));
  return result;
}
inline std::vector<Index> counts_to(const Communicator& comm, int to, int salt) {
  std::vector<Index> result;
  for (int from = 0; from < comm.size(); ++from) result.push_back(contract_count(from, to, salt));
  return result;
}
inline Index total(const std::vector<Index>& counts) { return std::accumulate(counts.begin(), counts.end(), Index{0}); }

/// What must arrive when every rank sends rows of `width` of its contract_tensor.
inline std::vector<double> expected_rows(const Communicator& comm, Index width, int salt) {
  std::vector<double> result;
  for (int from = 0; from < comm.size(); ++from) {
    Index row = 0;
    for (int to = 0; to < comm.rank(); ++to) row += contract_count(from, to, salt);
    for (Index i = row * width; i < (row + contract_count(from, comm.rank(), salt)) * width; ++i) {
      result.push_back(contract_value(from, i, salt));
    }
  }
  return result;
}

inline void contract_all_to_all(Communicator& comm) {
  Bench b;
  for (const DType dtype : kEveryDType) {
    for (const int salt : {0, 1, 2, 3, 40}) {
      for (const Index width : {0, 1, 5}) {
        for (const When when : kEveryWhen) {
          const auto send = counts_from(comm, comm.rank(), salt);
          const auto receive = counts_to(comm, comm.rank(), salt);
          const auto shape = [&](Index rows) { return width == 1 ? Shape{rows} : Shape{rows, width}; };
          const Tensor in = contract_tensor(b.stream, shape(total(send)), dtype, comm.rank(), salt);
          const Tensor out = Tensor::zeros(b.stream, shape(total(receive)), dtype);
          comm.all_to_all(b.stream, {"dispatch", 1}, in, send, out, receive, when).wait(b.stream);
          expect_close(out, expected_rows(comm, width, salt), 0, "all_to_all");

          const Tensor back = Tensor::zeros(b.stream, in.shape(), dtype);
          comm.all_to_all(b.stream, {"combine", 1}, out, receive, back, send, when).wait(b.stream);
          expect_same_bits(back, in, "the transposed all_to_all gives the rows back");
        }
      }
    }
  }
}

/// One rank receives everything, the others nothing.
inline void contract_one_rank_receives_all(Communicator& comm) {
  Bench b;
  for (int chosen = 0; chosen < comm.size(); ++chosen) {
    std::vector<Index> send(static_cast<std::size_t>(comm.size()), 0);
    std::vector<Index> receive(static_cast<std::size_t>(comm.size()), comm.rank() == chosen ? 6 : 0);
    send[static_cast<std::size_t>(chosen)] = 6;
    const Tensor in = contract_tensor(b.stream, {6, 2}, DType::bf16, comm.rank());
    const Tensor out = Tensor::zeros(b.stream, {total(receive), 2}, DType::bf16);
    comm.all_to_all(b.stream, {"dispatch"}, in, send, out, receive).wait(b.stream);
    for (Index i = 0; i < out.elements(); ++i) {
      EXPECT_EQ(static_cast<float>(out.data<BFloat16>()[i]), contract_value(static_cast<int>(i / 12), i % 12)) << "element " << i;
    }
  }
}

inline void contract_broadcast(Communicator& comm) {
  Bench b;
  for (const DType dtype : kEveryDType) {
    for (int root = 0; root < comm.size(); ++root) {
      for (const Shape shape : {Shape{}, Shape{0}, Shape{300}, Shape{3, 5}}) {
        const Tensor x = contract_tensor(b.stream, shape, dtype, comm.rank(), root);
        comm.broadcast(b.stream, {"broadcast"}, x, root).wait(b.stream);
        expect_same_bits(x, contract_tensor(b.stream, shape, dtype, root, root), "broadcast");
      }
    }
  }
}

inline void contract_send_receive(Communicator& comm) {
  Bench b;
  for (int step = 0; step < comm.size(); ++step) {  // step 0: every rank with itself
    const int to = (comm.rank() + step) % comm.size();
    const int from = (comm.rank() - step + comm.size()) % comm.size();
    const auto rows = [&](int rank) { return step == 0 ? Index{4} : Index{rank} * 300; };
    const Tensor out = contract_tensor(b.stream, {rows(comm.rank()), 3}, DType::f32, comm.rank(), step);
    const Tensor in = Tensor::zeros(b.stream, {rows(from), 3});
    comm.send_receive(b.stream, {"ring"}, out, to, in, from).wait(b.stream);
    expect_same_bits(in, contract_tensor(b.stream, {rows(from), 3}, DType::f32, from, step), "send_receive");
  }
}

/// Works in flight together, waited for in the opposite order, in a mixed one, and not at all.
inline void contract_works_in_any_order(Communicator& comm) {
  Bench b;
  const auto posted = [&](int salt, const Tensor& out) {
    const auto send = counts_from(comm, comm.rank(), salt);
    const Tensor in = contract_tensor(b.stream, {total(send), 4}, DType::f32, comm.rank(), salt);
    return comm.all_to_all(b.stream, {"dispatch", salt}, in, send, out, counts_to(comm, comm.rank(), salt));
  };
  const auto room = [&](int salt) { return Tensor::zeros(b.stream, {total(counts_to(comm, comm.rank(), salt)), 4}); };
  for (const bool dropped : {false, true}) {
    const Tensor first = room(3);
    const Tensor second = room(50);
    const Tensor sum = contract_tensor(b.stream, {100}, DType::f32, comm.rank());
    const Tensor parts = Tensor::zeros(b.stream, {comm.size() * 2}, DType::i32);
    {
      Work one = posted(3, first);
      Work reduce = comm.all_reduce(b.stream, {"reduce"}, sum);
      Work two = posted(50, second);
      Work gather = comm.all_gather(b.stream, {"gather"}, contract_tensor(b.stream, {2}, DType::i32, comm.rank()), parts);
      comm.progress();
      if (!dropped) {
        two.wait(b.stream);
        gather.wait(b.stream);
        one.wait(b.stream);
        reduce.wait(b.stream);
      }
    }
    expect_close(first, expected_rows(comm, 4, 3), 0, "the first work");
    expect_close(second, expected_rows(comm, 4, 50), 0, "the second work");
    std::vector<double> expected(100, 0.0);
    for (int rank = 0; rank < comm.size(); ++rank) {
      for (Index i = 0; i < 100; ++i) expected[static_cast<std::size_t>(i)] += contract_value(rank, i);
    }
    expect_close(sum, expected, 0, "the reduction between them");
    EXPECT_EQ(parts.data<std::int32_t>()[comm.size() * 2 - 1], contract_value(comm.size() - 1, 1));
  }
}

/// Groups by parity, in reversed order; theirs and the parent's collectives are under way together.
inline void contract_split(Communicator& comm) {
  Bench b;
  const auto group = comm.split(comm.rank() % 2, -comm.rank(), "world/parity");
  const auto alone = comm.split(comm.rank(), 0, "world/alone");
  std::vector<int> expected_ranks;
  for (int rank = comm.size() - 1; rank >= 0; --rank) {
    if (rank % 2 == comm.rank() % 2) expected_ranks.push_back(rank);
  }
  ASSERT_EQ(group->size(), static_cast<int>(expected_ranks.size()));
  EXPECT_EQ(group->name(), "world/parity");
  EXPECT_EQ(expected_ranks[static_cast<std::size_t>(group->rank())], comm.rank());
  for (std::size_t i = 0; i < expected_ranks.size(); ++i) {
    const auto parent = static_cast<std::size_t>(expected_ranks[i]);
    EXPECT_EQ(group->world_ranks()[i], comm.world_ranks()[parent]);
    EXPECT_EQ(group->nodes()[i], comm.nodes()[parent]);
  }
  EXPECT_EQ(alone->size(), 1);

  const Tensor inside = contract_tensor(b.stream, {64}, DType::f64, comm.rank(), 1);
  const Tensor everywhere = contract_tensor(b.stream, {64}, DType::f64, comm.rank(), 2);
  const Tensor gathered = Tensor::zeros(b.stream, {group->size(), 3}, DType::bf16);
  const Tensor own = contract_tensor(b.stream, {5}, DType::f32, comm.rank());
  {
    Work outer = comm.all_reduce(b.stream, {"reduce"}, everywhere);
    Work inner = group->all_reduce(b.stream, {"reduce"}, inside);
    Work gather = group->all_gather(b.stream, {"gather"}, contract_tensor(b.stream, {1, 3}, DType::bf16, comm.rank()), gathered);
    alone->all_reduce(b.stream, {"reduce"}, own).wait(b.stream);
    gather.wait(b.stream);
    outer.wait(b.stream);
    inner.wait(b.stream);
  }
  for (Index i = 0; i < 64; ++i) {
    double group_sum = 0;
    double world_sum = 0;
    for (int rank = 0; rank < comm.size(); ++rank) {
      group_sum += rank % 2 == comm.rank() % 2 ? contract_value(rank, i, 1) : 0;
      world_sum += contract_value(rank, i, 2);
    }
    EXPECT_EQ(inside.data<double>()[i], group_sum);
    EXPECT_EQ(everywhere.data<double>()[i], world_sum);
  }
  for (int i = 0; i < group->size(); ++i) {
    EXPECT_EQ(static_cast<float>(gathered.data<BFloat16>()[i * 3 + 1]), contract_value(expected_ranks[static_cast<std::size_t>(i)], 1));
  }
  expect_same_bits(own, contract_tensor(b.stream, {5}, DType::f32, comm.rank()), "a rank alone");

  const auto deeper = group->split(0, group->rank(), "world/parity/again");
  EXPECT_EQ(deeper->size(), group->size());
  EXPECT_EQ(deeper->world_ranks()[0], group->world_ranks()[0]);
  deeper->barrier({"barrier"});
}

/// Every rank passes something wrong; nothing is sent, so the communicator works on.
inline void contract_wrong_shapes_throw(Communicator& comm) {
  Bench b;
  const int n = comm.size();
  const auto zeros = [&](Shape shape, DType dtype = DType::f32) { return Tensor::zeros(b.stream, shape, dtype); };
  const std::vector<Index> ones(static_cast<std::size_t>(n), 1);
  std::vector<Index> negative = ones;
  negative[0] = -1;
  std::vector<Index> unequal_self = ones;
  unequal_self[static_cast<std::size_t>(comm.rank())] = 2;
  const std::vector<Index> too_many(static_cast<std::size_t>(n) + 1, 1);
  const std::vector<std::function<Work()>> wrong = {
      [&] { return comm.all_reduce(b.stream, {"x"}, zeros({3}, DType::bf16)); },
      [&] { return comm.all_reduce(b.stream, {"x"}, zeros({3}, DType::i32)); },
      [&] { return comm.all_reduce(b.stream, {"x"}, Tensor()); },
      [&] { return comm.all_gather(b.stream, {"x"}, zeros({3}), zeros({3 * n + 1})); },
      [&] {
        return comm.all_gather(b.stream, {"x"}, zeros({3, 2}), zeros({3 * n, 4}));
      },
      [&] { return comm.all_gather(b.stream, {"x"}, zeros({3}), zeros({3 * n}, DType::bf16)); },
      [&] {
        const Tensor whole = zeros({4 * n});  // a range of the whole, but not this rank's
        return comm.all_gather(b.stream, {"x"}, whole.flat_range(n == 1 ? 1 : (comm.rank() + 1) % n * 4, {n == 1 ? 3 : 4}), whole);
      },
      [&] { return comm.reduce_scatter(b.stream, {"x"}, zeros({3 * n + 2}), zeros({3})); },
      [&] { return comm.reduce_scatter(b.stream, {"x"}, zeros({3 * n}, DType::f64), zeros({3}, DType::f64)); },
      [&] {
        return comm.all_to_all(b.stream, {"x"}, zeros({n, 2}), ones, zeros({n, 3}), ones);
      },
      [&] {
        return comm.all_to_all(b.stream, {"x"}, zeros({n + 1, 2}), ones, zeros({n, 2}), ones);
      },
      [&] {
        return comm.all_to_all(b.stream, {"x"}, zeros({n, 2}), ones, zeros({n + 1, 2}), ones);
      },
      [&] {
        return comm.all_to_all(b.stream, {"x"}, zeros({n, 2}), ones, zeros({n, 2}, DType::i32), ones);
      },
      [&] { return comm.all_to_all(b.stream, {"x"}, zeros({n + 1}), too_many, zeros({n}), ones); },
      [&] { return comm.all_to_all(b.stream, {"x"}, zeros({n - 2 < 0 ? 0 : n - 2}), negative, zeros({n}), ones); },
      [&] { return comm.all_to_all(b.stream, {"x"}, zeros({n + 1}), unequal_self, zeros({n}), ones); },
      [&] {
        const Tensor same = zeros({n});
        return comm.all_to_all(b.stream, {"x"}, same, ones, same, ones);
      },
      [&] { return comm.broadcast(b.stream, {"x"}, zeros({2}), n); },
      [&] { return comm.broadcast(b.stream, {"x"}, zeros({2}), -1); },
      [&] { return comm.send_receive(b.stream, {"x"}, zeros({2}), n, zeros({2}), 0); },
      [&] { return comm.send_receive(b.stream, {"x"}, zeros({2}), comm.rank(), zeros({3}), comm.rank()); },
      [&] {
        return comm.send_receive(b.stream, {"x"}, zeros({2, 2}), comm.rank(), zeros({2, 1}), comm.rank());
      },
  };
  const std::size_t recorded = comm.log().records().size();
  for (std::size_t i = 0; i < wrong.size(); ++i) EXPECT_THROW(wrong[i]().wait(b.stream), Error) << "call " << i;
  EXPECT_THROW((void)comm.split(-1, 0, "none"), Error);
  EXPECT_EQ(comm.log().records().size(), recorded) << "a rejected call is not recorded";
  const Tensor x = contract_tensor(b.stream, {3}, DType::i64, comm.rank());
  comm.all_reduce(b.stream, {"x"}, x, Reduce::max).wait(b.stream);
  double largest = contract_value(0, 1);
  for (int rank = 1; rank < n; ++rank) largest = std::max(largest, contract_value(rank, 1));
  EXPECT_EQ(static_cast<double>(x.data<std::int64_t>()[1]), largest);
}

/// The records of the calls that `body` makes.
template <class Body>
std::vector<CollectiveRecord> recorded(Communicator& comm, const Body& body) {
  const auto before = comm.log().records();
  const std::uint64_t first = before.empty() ? 0 : before.back().id + 1;
  body();
  std::vector<CollectiveRecord> result;
  for (CollectiveRecord& record : comm.log().records()) {
    if (record.id >= first) result.push_back(std::move(record));
  }
  return result;
}

/// One record per call: label, bytes by node and by peer, times.
inline void contract_records(Communicator& comm) {
  Bench b;
  const int n = comm.size();
  const auto me = static_cast<std::size_t>(comm.rank());
  Index within = 0;  // peers of this rank's node
  Index between = 0;
  for (int rank = 0; rank < n; ++rank) {
    if (rank != comm.rank()) ++(comm.nodes()[static_cast<std::size_t>(rank)] == comm.nodes()[me] ? within : between);
  }
  const std::vector<Index> twos(static_cast<std::size_t>(n), 2);
  const Tensor in = contract_tensor(b.stream, {2 * n, 5}, DType::bf16, comm.rank());
  const Tensor out = Tensor::zeros(b.stream, {2 * n, 5}, DType::bf16);
  const Tensor part = Tensor::zeros(b.stream, {7});
  const Tensor in_ring = Tensor::zeros(b.stream, {3});
  const int next = (comm.rank() + 1) % n;
  const int previous = (comm.rank() - 1 + n) % n;
  const auto records = recorded(comm, [&] {
    comm.all_to_all(b.stream, {"dispatch", 3}, in, twos, out, twos).wait(b.stream);
    comm.all_reduce(b.stream, {"totals"}, Tensor::zeros(b.stream, {4 * n}, DType::f64), Reduce::sum, When::now).wait(b.stream);
    comm.all_gather(b.stream, {"weights", Label::kHead}, part, Tensor::zeros(b.stream, {7 * n})).wait(b.stream);
    comm.reduce_scatter(b.stream, {"gradients", Label::kEmbedding}, Tensor::zeros(b.stream, {7 * n}), part).wait(b.stream);
    comm.broadcast(b.stream, {"seed"}, part, n - 1).wait(b.stream);
    comm.send_receive(b.stream, {"ring"}, Tensor::zeros(b.stream, {3}), next, in_ring, previous).wait(b.stream);
    comm.barrier({"barrier"});
  });
  const auto expect = [&](std::size_t i, const std::string& label, const std::string& op, Index bytes_within, Index bytes_between) {
    ASSERT_LT(i, records.size());
    const CollectiveRecord& record = records[i];
    EXPECT_EQ(record.label.text(), label);
    EXPECT_EQ(record.op, op);
    EXPECT_EQ(record.bytes_within, bytes_within) << label;
    EXPECT_EQ(record.bytes_between, bytes_between) << label;
    EXPECT_EQ(record.state(), CollectiveState::complete) << label;
    EXPECT_GT(record.seconds(), 0) << label;
    EXPECT_GT(record.exposed_seconds(), 0) << label;
    EXPECT_EQ(comm.log().groups()[static_cast<std::size_t>(record.group)].members,
              std::vector<int>(comm.world_ranks().begin(), comm.world_ranks().end()));
  };
  expect(0, "layer.3.dispatch", "all_to_all", 2 * 5 * 2 * within, 2 * 5 * 2 * between);
  expect(1, "totals", "all_reduce", 2 * 4 * 8 * within, 2 * 4 * 8 * between);
  expect(2, "head.weights", "all_gather", 28 * within, 28 * between);
  expect(3, "embedding.gradients", "reduce_scatter", 28 * within, 28 * between);
  const bool root = comm.rank() == n - 1;
  expect(4, "seed", "broadcast", root ? 28 * within : 0, root ? 28 * between : 0);
  const bool near = comm.nodes()[static_cast<std::size_t>(next)] == comm.nodes()[me];
  const Index ring = next == comm.rank() ? 0 : 12;
  expect(5, "ring", "send_receive", near ? ring : 0, near ? 0 : ring);
  expect(6, "barrier", "barrier", 0, 0);
  EXPECT_EQ(records.size(), 7U);

  ASSERT_EQ(records[0].peers.size(), static_cast<std::size_t>(n));
  for (int peer = 0; peer < n; ++peer) {
    const PeerBytes& bytes = records[0].peers[static_cast<std::size_t>(peer)];
    EXPECT_EQ(bytes.peer, peer);
    EXPECT_EQ(bytes.sent, 20);
    EXPECT_EQ(bytes.received, 20);
  }
  for (std::size_t i = 1; i < 5; ++i) EXPECT_TRUE(records[i].peers.empty());
  Index sent = 0;
  Index received = 0;
  for (const PeerBytes& bytes : records[5].peers) {
    EXPECT_TRUE(bytes.sent == 0 || bytes.peer == next);
    EXPECT_TRUE(bytes.received == 0 || bytes.peer == previous);
    sent += bytes.sent;
    received += bytes.received;
  }
  EXPECT_EQ(sent, 12);
  EXPECT_EQ(received, 12);
}

/// Peers without bytes have no entry, and both ends count the same bytes.
inline void contract_peer_bytes_are_sparse(Communicator& comm) {
  Bench b;
  const auto send = counts_from(comm, comm.rank(), 3);
  const auto receive = counts_to(comm, comm.rank(), 3);
  const Tensor in = contract_tensor(b.stream, {total(send), 4}, DType::f32, comm.rank());
  const Tensor out = Tensor::zeros(b.stream, {total(receive), 4});
  const auto records = recorded(comm, [&] { comm.all_to_all(b.stream, {"dispatch"}, in, send, out, receive).wait(b.stream); });
  ASSERT_EQ(records.size(), 1U);
  std::size_t entries = 0;
  for (int peer = 0; peer < comm.size(); ++peer) {
    const auto at = static_cast<std::size_t>(peer);
    if (send[at] == 0 && receive[at] == 0) continue;
    ASSERT_LT(entries, records[0].peers.size());
    EXPECT_EQ(records[0].peers[entries].peer, peer);
    EXPECT_EQ(records[0].peers[entries].sent, send[at] * 16);
    EXPECT_EQ(records[0].peers[entries].received, receive[at] * 16);
    ++entries;
  }
  EXPECT_EQ(records[0].peers.size(), entries);
}

/// Three tensors of different dtypes in one operation, over several runs per pair of ranks that are received in a different order from the
/// one in which they are sent, with gaps in both; one record with the bytes of all three.
inline void contract_parts_and_runs(Communicator& comm) {
  Bench b;
  const int n = comm.size();
  constexpr Index kRuns = 3;
  // Run r of the pair (from, to) has this many rows; some are empty, some long enough to be a message of its own.
  const auto rows = [](int from, int to, Index run) { return (from * 3 + to + run * 2) % 4 == 1 ? Index{0} : from + 2 * to + run + 1; };
  std::vector<RowRun> send;
  Index leaving = 1;  // the first row stays
  for (int to = n - 1; to >= 0; --to) {
    for (Index run = 0; run < kRuns; ++run) {
      send.push_back({to, leaving, rows(comm.rank(), to, run)});
      leaving += rows(comm.rank(), to, run) + 1;  // a gap
    }
  }
  std::vector<RowRun> receive;  // run after run, and within it rank after rank
  Index arriving = 2;
  for (Index run = 0; run < kRuns; ++run) {
    for (int from = 0; from < n; ++from) {
      receive.push_back({from, arriving, rows(from, comm.rank(), run)});
      arriving += rows(from, comm.rank(), run);
    }
  }
  for (const Index width : {Index{3}, Index{9000}}) {
    for (const When when : kEveryWhen) {
      std::vector<AllToAllPart> parts;
      for (const auto& [dtype, columns] :
           {std::pair{DType::bf16, width}, std::pair{DType::f32, Index{1}}, std::pair{DType::i64, Index{2}}}) {
        const auto shape = [&](Index length) { return columns == 1 ? Shape{length} : Shape{length, columns}; };
        const int salt = static_cast<int>(dtype);
        const Tensor out(b.stream, shape(arriving + 1), dtype);
        for (Index i = 0; i < out.elements(); ++i) set_value(out, i, -99);
        parts.push_back({contract_tensor(b.stream, shape(leaving), dtype, comm.rank(), salt), out});
      }
      const auto records = recorded(comm, [&] { comm.all_to_all(b.stream, {"dispatch"}, parts, send, receive, when).wait(b.stream); });
      ASSERT_EQ(records.size(), 1U) << "one operation";
      Index bytes = 0;
      for (const RowRun& run : send) bytes += run.peer == comm.rank() ? 0 : run.rows * (width * 2 + 4 + 16);
      EXPECT_EQ(records[0].bytes(), bytes);
      for (const auto& [in, out] : parts) {
        const Index columns = row_elements(out);
        const int salt = static_cast<int>(out.dtype());
        std::vector<double> expected(static_cast<std::size_t>(out.elements()), -99);
        for (const RowRun& run : receive) {
          const Index index = (&run - receive.data()) / n;
          Index first = 1;  // where the sender's run starts
          for (int to = n - 1; to >= 0; --to) {
            for (Index r = 0; r < kRuns; ++r) {
              if (to == comm.rank() && r == index) {
                for (Index i = 0; i < run.rows * columns; ++i)
                  expected[static_cast<std::size_t>(run.first * columns + i)] = contract_value(run.peer, first * columns + i, salt);
              }
              first += rows(run.peer, to, r) + 1;
            }
          }
        }
        expect_close(out, expected, 0, "parts and runs, " + std::string(name_of(out.dtype())));
      }
    }
  }
}

/// A work is done once every rank has posted it, whether or not any rank has waited; `then` and `all` are done when their works are.
inline void contract_done(Communicator& comm) {
  Bench b;
  const Tensor x = contract_tensor(b.stream, {100}, DType::f32, comm.rank());
  const Tensor y = contract_tensor(b.stream, {100}, DType::f32, comm.rank());
  bool called = false;
  std::vector<Work> works;
  works.push_back(comm.all_reduce(b.stream, {"reduce"}, x));
  works.push_back(Work::then(b.stream, comm.all_reduce(b.stream, {"reduce"}, y),
                             [&, only = std::make_unique<int>(7)](Stream&) { called = *only == 7; }));
  works.emplace_back();
  Work all = Work::all(std::move(works));
  EXPECT_EQ(all.pending(), true);
  const auto from = Clock::now();
  while (!all.done() && seconds_between(from, Clock::now()) < 20) comm.progress();
  EXPECT_TRUE(all.done());
  EXPECT_FALSE(called) << "done does not wait";
  comm.progress();
  const auto records = comm.log().records();
  for (std::size_t i = records.size() - 2; i < records.size(); ++i) {
    EXPECT_EQ(records[i].state(), CollectiveState::complete) << "complete before anybody waited";
    EXPECT_FALSE(records[i].wait.has_value() && comm.size() > 1);
  }
  all.wait(b.stream);
  EXPECT_TRUE(called);
  EXPECT_TRUE(all.done());
  EXPECT_TRUE(Work().done());
  expect_close(x, to_f64(y), 0, "both reductions");
}

inline const std::vector<ContractCase> kContract = {
    {"AllReduce", contract_all_reduce},
    {"AllReduceRoundsLittle", contract_all_reduce_rounds_little},
    {"AllGather", contract_all_gather},
    {"ReduceScatter", contract_reduce_scatter},
    {"AllToAll", contract_all_to_all},
    {"OneRankReceivesAll", contract_one_rank_receives_all},
    {"Broadcast", contract_broadcast},
    {"SendReceive", contract_send_receive},
    {"WorksInAnyOrder", contract_works_in_any_order},
    {"Split", contract_split},
    {"WrongShapesThrow", contract_wrong_shapes_throw},
    {"Records", contract_records},
    {"PeerBytesAreSparse", contract_peer_bytes_are_sparse},
    {"PartsAndRuns", contract_parts_and_runs},
    {"Done", contract_done},
};

}  // namespace yard::test
