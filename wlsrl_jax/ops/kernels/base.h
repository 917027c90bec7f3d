// Part of cpu.cc: vectors, threads, memory, shapes.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "call.h"

namespace {

using std::max;
using std::min;

// A tile of kRows x 2 vectors, the two vectors that it is multiplied with and one number fill the
// vector registers: 32 of them, or 16.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 14;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 14;
#else
constexpr int kLanes = 4, kRows = 6;
#endif
constexpr Int kImageBytes = 192 * 1024;  // of a block of rows; leaves room in a 512 KiB cache
constexpr Int kMaxChunks = 16;           // partial sums of a reduction over images
constexpr Int kMaxSums = 1024 * 1024;    // floats of them all

typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(kLanes * 4)));

inline Vec Load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
// Keeps a value in a register that the compiler would rather read from memory time and again.
inline void InRegister(Vec& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__SSE__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}
inline Vec LoadSome(const float* p, Int n) {
  float t[kLanes] = {};
  std::memcpy(t, p, n * 4);
  return Load(t);
}
inline void StoreSome(float* p, Vec v, Int n) {
  float t[kLanes];
  Store(t, v);
  std::memcpy(p, t, n * 4);
}
inline Int RoundUp(Int n, Int unit) { return (n + unit - 1) / unit * unit; }

// Calls f(0) ... f(count - 1) on the threads of XLA; the caller works as well, so that this ends
// even if no other thread is free.
template <class F>
void Parallel(ThreadPool& pool, Int count, const F& f) {
  struct Shared {
    std::atomic<Int> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();
  // A helper that comes late finds no item, and does not touch `f`, which is gone by then.
  auto work = [shared, count, &f] {
    for (Int i; (i = shared->next.fetch_add(1)) < count;) {
      f(i);
      if (shared->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->all_done.notify_all();
      }
    }
  };
  const Int helpers = min<Int>(pool.num_threads(), count) - 1;
  for (Int k = 0; k < helpers; ++k) {
    auto copy = work;
    pool.Schedule(std::move(copy));
  }
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == count; });
}

// Aligned memory of this thread, kept between calls.
float* Scratch(int slot, Int floats) {
  thread_local std::vector<float> buffers[2];
  auto& buffer = buffers[slot];
  if (buffer.size() < static_cast<size_t>(floats + 16)) buffer.resize(floats + 16);
  return buffer.data() + (64 - reinterpret_cast<uintptr_t>(buffer.data()) % 64) % 64 / 4;
}

struct Aligned {  // memory of one call
  explicit Aligned(Int floats) : owner(new float[floats + 16]) {
    data = owner.get() + (64 - reinterpret_cast<uintptr_t>(owner.get()) % 64) % 64 / 4;
  }
  std::unique_ptr<float[]> owner;
  float* data;
};

// Copies rows [first, first + rows) of a zero-padded image; columns and channels are filled up
// with zeros to `columns` and `channels`.
void CopyPadded(const float* x, const Shape& s, Int top, Int left, Int first, Int rows, Int columns,
                Int channels, float* out) {
  for (Int r = 0; r < rows; ++r, out += columns * channels) {
    const Int h = first + r - top;
    if (h < 0 || h >= s.h) {
      std::memset(out, 0, columns * channels * 4);
      continue;
    }
    const Int width = min(s.w, columns - left);
    const float* row = x + h * s.w * s.c;
    std::memset(out, 0, left * channels * 4);
    float* to = out + left * channels;
    if (channels == s.c) {
      std::memcpy(to, row, width * s.c * 4);
    } else {
      for (Int p = 0; p < width; ++p, to += channels) {
        std::memcpy(to, row + p * s.c, s.c * 4);
        std::memset(to + s.c, 0, (channels - s.c) * 4);
      }
    }
    std::memset(out + (left + width) * channels, 0, (columns - left - width) * channels * 4);
  }
}

// Splits `rows` evenly into blocks whose copies fit the cache; returns rows a block.
Int RowsOfBlock(Int rows, Int row_bytes, Int extra) {
  const Int most = max<Int>(1, min(rows, kImageBytes / row_bytes - extra));
  const Int blocks = (rows + most - 1) / most;
  return (rows + blocks - 1) / blocks;
}

// Calls f(offset, valid) for each vector of channels.
template <class F>
inline void OverChannels(Int channels, const F& f) {
  Int c = 0;
  for (; c + kLanes <= channels; c += kLanes) f(c, std::true_type{}, Int{kLanes});
  if (c < channels) f(c, std::false_type{}, channels - c);
}
template <class Full>
inline Vec LoadPart(Full, const float* p, Int n) {
  if constexpr (Full::value) return Load(p);
  return LoadSome(p, n);
}
template <class Full>
inline void StorePart(Full, float* p, Vec v, Int n) {
  if constexpr (Full::value) return Store(p, v);
  StoreSome(p, v, n);
}

inline Vec Positive(Vec v) { return v > 0.0f ? v : Vec{}; }

}  // namespace
