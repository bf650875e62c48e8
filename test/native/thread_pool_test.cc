// The pool: every task once, results of any pool size, exceptions, many callers, fairness, idle threads that cost
// nothing.
#include "core/thread_pool.h"

#include <atomic>
#include <ctime>
#include <thread>

#include "testing.h"

using namespace qwen3;
using namespace qwen3::testing;

namespace {

void every_task_once(int threads) {
  ThreadPool pool(threads);
  CHECK(pool.size() == threads);
  for (int64_t n : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
    pool.parallel_for(n, [&](int64_t i) { hits[static_cast<size_t>(i)].fetch_add(1); });
    for (const auto& hit : hits) CHECK(hit.load() == 1);
  }
}

// Phases of one job see what the phases before wrote, without any atomic of their own.
void barriers_publish(int threads) {
  ThreadPool pool(threads);
  constexpr int64_t kCells = 37;
  std::vector<int64_t> cells(kCells, 0), next(kCells, 0);
  const int phases = std::getenv("QWEN3_SANITIZED") ? 50 : 400;
  pool.run([&](ThreadPool::Team& team) {
    for (int phase = 0; phase < phases; ++phase) {
      team.for_each(
          kCells, [&](int64_t i) { next[static_cast<size_t>(i)] = cells[static_cast<size_t>((i + 1) % kCells)] + i; });
      if (team.thread() == 0) std::swap(cells, next);
      team.barrier();
    }
  });
  std::vector<int64_t> want(kCells, 0);
  for (int phase = 0; phase < phases; ++phase) {
    std::vector<int64_t> made(kCells);
    for (int64_t i = 0; i < kCells; ++i) made[static_cast<size_t>(i)] = want[static_cast<size_t>((i + 1) % kCells)] + i;
    want = made;
  }
  CHECK(cells == want);
}

void exceptions_come_back() {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> ran{0};
    CHECK_THROWS(pool.parallel_for(100,
                                   [&](int64_t i) {
                                     ran.fetch_add(1);
                                     if (i == 13) throw Error(ErrorCode::kBadModelFile, "thirteen");
                                   }),
                 ErrorCode::kBadModelFile);
    CHECK(ran.load() >= 1 && ran.load() <= 100);
  }
  std::atomic<int> after{0};
  pool.parallel_for(10, [&](int64_t) { after.fetch_add(1); });
  CHECK(after.load() == 10);
}

// Several engines on one pool: each job stays whole, and nobody starves.
void many_callers() {
  ThreadPool pool(2);
  constexpr int kCallers = 4;
  const int jobs = std::getenv("QWEN3_SANITIZED") ? 50 : 300;
  std::vector<std::thread> callers;
  std::atomic<int> inside{0}, wrong{0};
  std::vector<int> done(kCallers, 0);
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int job = 0; job < jobs; ++job) {
        std::vector<int> sum(8, 0);
        pool.run([&](ThreadPool::Team& team) {
          if (team.thread() == 0 && inside.fetch_add(1) != 0) wrong.fetch_add(1);
          team.for_each(8, [&](int64_t i) { sum[static_cast<size_t>(i)] += 1; });
          team.for_each(8, [&](int64_t i) { sum[static_cast<size_t>(i)] += static_cast<int>(i); });
          if (team.thread() == 0) inside.fetch_sub(1);
        });
        for (int i = 0; i < 8; ++i) wrong += sum[static_cast<size_t>(i)] != 1 + i;
        ++done[static_cast<size_t>(caller)];
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong.load() == 0);
  for (int n : done) CHECK(n == jobs);
}

// Two callers that both always have work get their jobs alternately.
void callers_take_turns() {
  ThreadPool pool(2);
  std::vector<int> order;
  std::atomic<int> ready{0};
  const auto caller = [&](int id) {
    ready.fetch_add(1);
    while (ready.load() < 2) std::this_thread::yield();
    for (int job = 0; job < 40; ++job) {
      pool.run([&](ThreadPool::Team& team) {
        if (team.thread() != 0) return;
        order.push_back(id);  // jobs exclude each other
        const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
        while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
      });
    }
  };
  std::thread a(caller, 0), b(caller, 1);
  a.join(), b.join();
  // While both queue, a ticket taken during the other's job is served next: no long runs of one caller.
  int longest = 0, run = 0;
  for (size_t i = 0; i < 60 && i < order.size(); ++i) {
    run = i > 0 && order[i] == order[i - 1] ? run + 1 : 1;
    longest = std::max(longest, run);
  }
  CHECK_MSG(longest <= 20, "one caller ran " + std::to_string(longest) + " jobs in a row");
}

double process_cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

void idle_costs_nothing() {
  ThreadPool pool(8);  // more threads than cores, too
  pool.parallel_for(100, [](int64_t) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const double begin = process_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double used = process_cpu_seconds() - begin;
  CHECK_MSG(used < 0.02, "an idle pool used " + std::to_string(used) + " s of CPU in 0.5 s");
}

void sizes() {
  CHECK(ThreadPool::default_threads() >= 1);
  ThreadPool automatic(0);
  CHECK(automatic.size() == ThreadPool::default_threads());
  CHECK_THROWS_SUBJECT(ThreadPool(-1), ErrorCode::kInvalidArgument, "threads");
  CHECK_THROWS_SUBJECT(ThreadPool(5000), ErrorCode::kInvalidArgument, "threads");
  for (int round = 0; round < 30; ++round) ThreadPool unused(4);  // made and destroyed without a job
}

}  // namespace

int main(int argc, char** argv) {
  Run run(argc, argv);
  sizes();
  for (int threads : {1, 2, 3, 9}) {
    every_task_once(threads);
    barriers_publish(threads);
  }
  exceptions_come_back();
  many_callers();
  callers_take_turns();
  idle_costs_nothing();
  return run.finish();
}
