// Convolutions and batch normalisation for CPUs, called from XLA through its FFI.
//
// Arrays are float32, NHWC; kernels are [kh, kw, in, out], [kh, kw, 1, C] if depthwise.
// Convolutions have stride 1 and zero padding of `top` rows and `left` columns; what lies
// below and to the right follows from the size of the output. Every sum is formed in an order that
// depends on shapes alone, never on the number of threads.
//
// Method: direct convolution with register tiles. A block of image rows is copied, padded, to
// where it stays in the second-level cache; a tile of kRows pixels (or inputs) by two vectors of
// output channels then stays in registers over the whole sum.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Input = ffi::Buffer<ffi::F32>;
using Output = ffi::ResultBuffer<ffi::F32>;
using std::max;
using std::min;
using Int = int64_t;

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

typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(kLanes * 4)));

inline Vec Load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
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
void Parallel(ffi::ThreadPool& pool, Int count, const F& f) {
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

struct Shape {
  Int n, h, w, c;
  Int pixels() const { return n * h * w; }
};
Shape ShapeOf(const Input& b) {
  auto d = b.dimensions();
  return {d[0], d[1], d[2], d[3]};
}
Shape ShapeOf(Output b) {
  auto d = b->dimensions();
  return {d[0], d[1], d[2], d[3]};
}

// Copies rows [first, first + rows) of a zero-padded image; columns and channels are filled up
// with zeros to `columns` and `channels`.
void CopyPadded(const float* x, const Shape& s, Int top, Int left, Int first, Int rows,
                Int columns, Int channels, float* out) {
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

// --- batch normalisation, ReLU, 2x2 max pooling: forward, one row ---------------------------------

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

// Row r of relu(a x + b), or of the largest of its 2x2 pixels; a last odd row or column stands
// alone. `x` is one image, or a part of it.
void NormReluRow(const float* x, const Shape& s, const float* a, const float* b, bool pool2, Int r,
                 float* out, Int width) {
  const float* upper = x + (pool2 ? 2 * r : r) * s.w * s.c;
  const float* lower = pool2 && 2 * r + 1 < s.h ? upper + s.w * s.c : upper;
  OverChannels(s.c, [&](Int c, auto full, Int valid) {
    const Vec va = LoadPart(full, a + c, valid), vb = LoadPart(full, b + c, valid);
    for (Int p = 0; p < width; ++p) {
      Vec v;
      if (pool2) {
        const Int i = 2 * p * s.c + c, j = min(2 * p + 1, s.w - 1) * s.c + c;
        const Vec v0 = LoadPart(full, upper + i, valid) * va + vb;
        const Vec v1 = LoadPart(full, upper + j, valid) * va + vb;
        const Vec v2 = LoadPart(full, lower + i, valid) * va + vb;
        const Vec v3 = LoadPart(full, lower + j, valid) * va + vb;
        const Vec m0 = v0 > v1 ? v0 : v1, m1 = v2 > v3 ? v2 : v3;
        v = m0 > m1 ? m0 : m1;
      } else {
        v = LoadPart(full, upper + p * s.c + c, valid) * va + vb;
      }
      StorePart(full, out + p * s.c + c, Positive(v), valid);
    }
  });
}

// --- standard convolution ----------------------------------------------------------------------

// out[m, :] = sum over i < kh, k < depth of x[i * row + m * step + k] * w[i, k, :]
template <int M, int V>
void Tile(const float* x, Int step, Int row, Int kh, Int depth, const float* w, float* out,
          Int out_step, Int channels) {
  Vec sum[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) sum[m][v] = Vec{};
  for (Int i = 0; i < kh; ++i) {
    const float* p = x + i * row;
    for (Int k = 0; k < depth; ++k, w += V * kLanes) {
      Vec b[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) b[v] = Load(w + v * kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        const float a = p[m * step + k];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[m][v] += a * b[v];
      }
    }
  }
  if (channels == V * kLanes) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) Store(out + m * out_step + v * kLanes, sum[m][v]);
  } else {
    float t[V * kLanes];
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < V; ++v) Store(t + v * kLanes, sum[m][v]);
      std::memcpy(out + m * out_step, t, channels * 4);
    }
  }
}
using TileFn = void (*)(const float*, Int, Int, Int, Int, const float*, float*, Int, Int);

// sum[m, :] += sum over rows and pixels of x[r * x_row + p * x_step + m] * g[r * g_row + p * g_step]
template <int M, int V>
void GradientTile(const float* x, Int x_row, Int x_step, const float* g, Int g_row, Int g_step,
                  Int rows, Int pixels, float* total) {
  Vec sum[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) sum[m][v] = Vec{};
  for (Int r = 0; r < rows; ++r) {
    const float *xp = x + r * x_row, *gp = g + r * g_row;
    for (Int p = 0; p < pixels; ++p, xp += x_step, gp += g_step) {
      Vec b[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) b[v] = Load(gp + v * kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        const float a = xp[m];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[m][v] += a * b[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* to = total + (m * V + v) * kLanes;
      Store(to, Load(to) + sum[m][v]);
    }
}
using GradientTileFn = void (*)(const float*, Int, Int, const float*, Int, Int, Int, Int, float*);

template <int V, int... I>
TileFn TileOf(Int m, std::integer_sequence<int, I...>) {
  static constexpr TileFn table[] = {Tile<I + 1, V>...};
  return table[m - 1];
}
template <int V, int... I>
GradientTileFn GradientTileOf(Int m, std::integer_sequence<int, I...>) {
  static constexpr GradientTileFn table[] = {GradientTile<I + 1, V>...};
  return table[m - 1];
}
constexpr auto kTileSizes = std::make_integer_sequence<int, kRows>{};

// The convolution, then relu(a y + b) and pooling if `a` is given: on a block of rows that is still
// in the cache. `y` is the shape of the convolution's output.
void ConvThen(ffi::ThreadPool& pool, Input x_buffer, Input kernel_buffer, const float* a,
              const float* b, bool pool2, Int top, Int left, const Shape& y, float* out) {
  const Shape s = ShapeOf(x_buffer), k = ShapeOf(kernel_buffer);
  const Int kh = k.n, kw = k.h, depth = kw * s.c, columns = y.w + kw - 1;
  const Int out_h = pool2 ? (y.h + 1) / 2 : y.h, out_w = pool2 ? (y.w + 1) / 2 : y.w;
  const float *x = x_buffer.typed_data(), *kernel = kernel_buffer.typed_data();
  const bool two = y.c > kLanes;
  const Int panel = two ? 2 * kLanes : kLanes, panels = (y.c + panel - 1) / panel;
  // The kernel, one panel of output channels after the other.
  Aligned packed(panels * kh * depth * panel);
  for (Int q = 0; q < panels; ++q)
    for (Int r = 0; r < kh * depth; ++r) {
      float* to = packed.data + (q * kh * depth + r) * panel;
      const Int valid = min(panel, y.c - q * panel);
      std::memcpy(to, kernel + r * y.c + q * panel, valid * 4);
      std::memset(to + valid, 0, (panel - valid) * 4);
    }
  const bool pointwise = kh == 1 && kw == 1 && s.h == y.h && s.w == y.w;
  Int rows_a_block = RowsOfBlock(y.h, (columns * s.c + (a ? y.w * y.c : 0)) * 4, kh - 1);
  if (pool2) rows_a_block = RoundUp(rows_a_block, 2);
  const Int blocks = (y.h + rows_a_block - 1) / rows_a_block;
  const Int parts = (y.w + kRows - 1) / kRows;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks, first = task % blocks * rows_a_block;
    const Int rows = min(rows_a_block, y.h - first);
    const float* image = x + (n * s.h + first) * s.w * s.c;
    if (!pointwise) {
      float* copy = Scratch(0, (rows + kh - 1) * columns * s.c);
      CopyPadded(x + n * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, columns, s.c, copy);
      image = copy;
    }
    float* to = a ? Scratch(1, rows * y.w * y.c) : out + (n * y.h + first) * y.w * y.c;
    for (Int q = 0; q < panels; ++q)
      for (Int r = 0; r < rows; ++r)
        for (Int part = 0; part < parts; ++part) {
          const Int begin = y.w * part / parts, m = y.w * (part + 1) / parts - begin;
          const TileFn tile = two ? TileOf<2>(m, kTileSizes) : TileOf<1>(m, kTileSizes);
          tile(image + (r * columns + begin) * s.c, s.c, columns * s.c, kh, depth,
               packed.data + q * kh * depth * panel, to + (r * y.w + begin) * y.c + q * panel, y.c,
               min(panel, y.c - q * panel));
        }
    if (!a) return;
    const Shape part{1, rows, y.w, y.c};
    const Int first_out = pool2 ? first / 2 : first, rows_out = pool2 ? (rows + 1) / 2 : rows;
    for (Int r = 0; r < rows_out; ++r)
      NormReluRow(to, part, a, b, pool2, r, out + (n * out_h + first_out + r) * out_w * y.c, out_w);
  });
}

ffi::Error Conv(ffi::ThreadPool pool, Input x, Input kernel, Int top, Int left, Output y) {
  ConvThen(pool, x, kernel, nullptr, nullptr, false, top, left, ShapeOf(y), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error ConvNormRelu(ffi::ThreadPool pool, Input x, Input kernel, Input a, Input b, Int top,
                        Int left, Int height, Int width, bool pool2, Output y) {
  const Shape out = ShapeOf(y);
  ConvThen(pool, x, kernel, a.typed_data(), b.typed_data(), pool2, top, left,
           {out.n, height, width, out.c}, y->typed_data());
  return ffi::Error::Success();
}

ffi::Error ConvKernelGradient(ffi::ThreadPool pool, Input x_buffer, Input g_buffer, Int top,
                              Int left, Output kernel_buffer) {
  const Shape s = ShapeOf(x_buffer), g = ShapeOf(g_buffer), k = ShapeOf(kernel_buffer);
  const Int kh = k.n, kw = k.h, depth = kw * s.c, columns = g.w + kw - 1;
  const float *x = x_buffer.typed_data(), *gradient = g_buffer.typed_data();
  float* out = kernel_buffer->typed_data();
  const bool two = g.c > kLanes;
  const Int panel = two ? 2 * kLanes : kLanes, panels = (g.c + panel - 1) / panel;
  // Tasks are parts of the batch by groups of panels: more parts need more memory for their sums,
  // more groups copy the images more often.
  const Int groups = min<Int>(panels, 4), chunks = min(g.n, kMaxChunks / groups);
  const Int size = kh * depth * panel;
  Aligned sums(chunks * panels * size);
  const Int rows_a_block = RowsOfBlock(g.h, (columns * s.c + g.w * panel) * 4, kh - 1);
  const Int parts = (depth + kRows - 1) / kRows;
  // A block of rows, or a few whole images where one is small, so that tiles stay long.
  const Int images =
      rows_a_block < g.h ? 1 : max<Int>(1, kImageBytes / (s.h * s.w * s.c + g.h * g.w * panel) / 4);
  const Int image_size = (g.h + kh - 1) * columns * s.c;
  Parallel(pool, chunks * groups, [&](Int task) {
    const Int chunk = task / groups, group = task % groups;
    const Int first_panel = panels * group / groups, end_panel = panels * (group + 1) / groups;
    const Int end = g.n * (chunk + 1) / chunks;
    float* sum = sums.data + chunk * panels * size;
    std::memset(sum + first_panel * size, 0, (end_panel - first_panel) * size * 4);
    for (Int n = g.n * chunk / chunks; n < end; n += images)
      for (Int first = 0; first < g.h; first += rows_a_block) {
        const Int rows = min(rows_a_block, g.h - first), count = min(images, end - n);
        float* copy = Scratch(0, count * image_size);
        for (Int i = 0; i < count; ++i)
          CopyPadded(x + (n + i) * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, columns,
                     s.c, copy + i * image_size);
        for (Int q = first_panel; q < end_panel; ++q) {
          const Int valid = min(panel, g.c - q * panel);
          const float* part_g = gradient + (n * g.h + first) * g.w * g.c;
          Int image_g = g.h * g.w * panel;
          if (g.c != panel) {  // gathered, so that it lies together in the cache
            float* to = Scratch(1, count * rows * g.w * panel);
            part_g = to;
            image_g = rows * g.w * panel;
            for (Int i = 0; i < count; ++i) {
              const float* from = gradient + ((n + i) * g.h + first) * g.w * g.c + q * panel;
              for (Int p = 0; p < rows * g.w; ++p, to += panel, from += g.c) {
                std::memcpy(to, from, valid * 4);
                std::memset(to + valid, 0, (panel - valid) * 4);
              }
            }
          }
          for (Int i = 0; i < kh; ++i)
            for (Int part = 0; part < parts; ++part) {
              const Int begin = depth * part / parts, m = depth * (part + 1) / parts - begin;
              const GradientTileFn tile =
                  two ? GradientTileOf<2>(m, kTileSizes) : GradientTileOf<1>(m, kTileSizes);
              for (Int image = 0; image < count; ++image)
                tile(copy + image * image_size + i * columns * s.c + begin, columns * s.c, s.c,
                     part_g + image * image_g, g.w * panel, panel, rows, g.w,
                     sum + q * size + (i * depth + begin) * panel);
            }
        }
      }
  });
  Parallel(pool, kh * kw, [&](Int tap) {
    for (Int r = tap * s.c; r < (tap + 1) * s.c; ++r)
      for (Int q = 0; q < panels; ++q)
        for (Int o = 0; o < min(panel, g.c - q * panel); ++o) {
          float total = 0;
          for (Int c = 0; c < chunks; ++c) total += sums.data[(c * panels + q) * size + r * panel + o];
          out[r * g.c + q * panel + o] = total;
        }
  });
  return ffi::Error::Success();
}

// --- depthwise convolution ---------------------------------------------------------------------

// One row of `width` pixels and kLanes channels; KH, KW = 0 means any size.
template <int KH, int KW>
void DepthwiseRow(const float* x, Int step, Int row, Int kh, Int kw, const float* w, float* out,
                  Int out_step, Int width, Int channels) {
  constexpr int kPixels = 4;
  Int p = 0;
  if constexpr (KH > 0) {
    Vec taps[KH][KW];
    for (int i = 0; i < KH; ++i)
      for (int j = 0; j < KW; ++j) taps[i][j] = Load(w + (i * KW + j) * kLanes);
    for (; p + kPixels <= width; p += kPixels) {
      Vec sum[kPixels] = {};
#pragma GCC unroll 3
      for (int i = 0; i < KH; ++i) {
#pragma GCC unroll 8
        for (int c = 0; c < kPixels + KW - 1; ++c) {
          const Vec v = Load(x + i * row + (p + c) * step);
#pragma GCC unroll 4
          for (int m = 0; m < kPixels; ++m)
            if (c - m >= 0 && c - m < KW) sum[m] += v * taps[i][c - m];
        }
      }
#pragma GCC unroll 4
      for (int m = 0; m < kPixels; ++m) {
        float* to = out + (p + m) * out_step;
        channels == kLanes ? Store(to, sum[m]) : StoreSome(to, sum[m], channels);
      }
    }
  }
  for (; p < width; ++p) {
    Vec sum{};
    for (Int i = 0; i < kh; ++i)
      for (Int j = 0; j < kw; ++j)
        sum += Load(x + i * row + (p + j) * step) * Load(w + (i * kw + j) * kLanes);
    float* to = out + p * out_step;
    channels == kLanes ? Store(to, sum) : StoreSome(to, sum, channels);
  }
}

ffi::Error Depthwise(ffi::ThreadPool pool, Input x_buffer, Input kernel_buffer, Int top, Int left,
                     Output y_buffer) {
  const Shape s = ShapeOf(x_buffer), k = ShapeOf(kernel_buffer), y = ShapeOf(y_buffer);
  const Int kh = k.n, kw = k.h, columns = y.w + kw - 1, wide = RoundUp(s.c, kLanes);
  const float *x = x_buffer.typed_data(), *kernel = kernel_buffer.typed_data();
  float* out = y_buffer->typed_data();
  Aligned packed(kh * kw * wide);  // [slice, tap, lane]
  std::memset(packed.data, 0, kh * kw * wide * 4);
  for (Int t = 0; t < kh * kw; ++t)
    for (Int c = 0; c < s.c; ++c)
      packed.data[(c / kLanes * kh * kw + t) * kLanes + c % kLanes] = kernel[t * s.c + c];
  const Int rows_a_block = RowsOfBlock(y.h, columns * wide * 4, kh - 1);
  const Int blocks = (y.h + rows_a_block - 1) / rows_a_block;
  const auto row_fn = kh == 3 && kw == 3 ? DepthwiseRow<3, 3> : DepthwiseRow<0, 0>;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks, first = task % blocks * rows_a_block;
    const Int rows = min(rows_a_block, y.h - first);
    float* copy = Scratch(0, (rows + kh - 1) * columns * wide);
    CopyPadded(x + n * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, columns, wide, copy);
    for (Int r = 0; r < rows; ++r)
      for (Int c = 0; c < s.c; c += kLanes)
        row_fn(copy + r * columns * wide + c, wide, columns * wide, kh, kw,
               packed.data + c * kh * kw, out + (n * y.h + first + r) * y.w * y.c + c, y.c, y.w,
               min<Int>(kLanes, s.c - c));
  });
  return ffi::Error::Success();
}

// total[tap, :] += sum over rows and pixels of x * g, kLanes channels
template <int KH, int KW>
void DepthwiseGradientTile(const float* x, Int step, Int row, const float* g, Int g_step, Int kh,
                           Int kw, Int rows, Int width, float* total) {
  if constexpr (KH > 0) {
    Vec sum[KH][KW] = {};
    for (Int r = 0; r < rows; ++r)
      for (Int p = 0; p < width; ++p) {
        const Vec b = Load(g + (r * width + p) * g_step);
        const float* xp = x + r * row + p * step;
#pragma GCC unroll 3
        for (int i = 0; i < KH; ++i)
#pragma GCC unroll 3
          for (int j = 0; j < KW; ++j) sum[i][j] += Load(xp + i * row + j * step) * b;
      }
    for (int i = 0; i < KH; ++i)
      for (int j = 0; j < KW; ++j) {
        float* to = total + (i * KW + j) * kLanes;
        Store(to, Load(to) + sum[i][j]);
      }
  } else {
    for (Int i = 0; i < kh; ++i)
      for (Int j = 0; j < kw; ++j) {
        Vec sum{};
        for (Int r = 0; r < rows; ++r)
          for (Int p = 0; p < width; ++p)
            sum += Load(x + (r + i) * row + (p + j) * step) * Load(g + (r * width + p) * g_step);
        float* to = total + (i * kw + j) * kLanes;
        Store(to, Load(to) + sum);
      }
  }
}

ffi::Error DepthwiseKernelGradient(ffi::ThreadPool pool, Input x_buffer, Input g_buffer, Int top,
                                   Int left, Output kernel_buffer) {
  const Shape s = ShapeOf(x_buffer), g = ShapeOf(g_buffer), k = ShapeOf(kernel_buffer);
  const Int kh = k.n, kw = k.h, columns = g.w + kw - 1, wide = RoundUp(s.c, kLanes);
  const float *x = x_buffer.typed_data(), *gradient = g_buffer.typed_data();
  float* out = kernel_buffer->typed_data();
  const Int chunks = min(g.n, kMaxChunks), size = kh * kw * wide;
  Aligned sums(chunks * size);  // [chunk, slice, tap, lane]
  const Int rows_a_block = RowsOfBlock(g.h, 2 * columns * wide * 4, kh - 1);
  const auto tile = kh == 3 && kw == 3 ? DepthwiseGradientTile<3, 3> : DepthwiseGradientTile<0, 0>;
  Parallel(pool, chunks, [&](Int chunk) {
    float* sum = sums.data + chunk * size;
    std::memset(sum, 0, size * 4);
    for (Int n = g.n * chunk / chunks; n < g.n * (chunk + 1) / chunks; ++n)
      for (Int first = 0; first < g.h; first += rows_a_block) {
        const Int rows = min(rows_a_block, g.h - first);
        float* copy = Scratch(0, (rows + kh - 1) * columns * wide);
        CopyPadded(x + n * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, columns, wide,
                   copy);
        const float* part_g = gradient + (n * g.h + first) * g.w * g.c;
        if (wide != g.c) {
          float* padded = Scratch(1, rows * g.w * wide);
          const Shape one{1, rows, g.w, g.c};
          CopyPadded(part_g, one, 0, 0, 0, rows, g.w, wide, padded);
          part_g = padded;
        }
        for (Int c = 0; c < wide; c += kLanes)
          tile(copy + c, wide, columns * wide, part_g + c, wide, kh, kw, rows, g.w,
               sum + c * kh * kw);
      }
  });
  for (Int t = 0; t < kh * kw; ++t)
    for (Int c = 0; c < s.c; ++c) {
      float total = 0;
      for (Int chunk = 0; chunk < chunks; ++chunk)
        total += sums.data[chunk * size + (c / kLanes * kh * kw + t) * kLanes + c % kLanes];
      out[t * s.c + c] = total;
    }
  return ffi::Error::Success();
}

// --- batch normalisation, ReLU, 2x2 max pooling ---------------------------------------------------

// Sums over pixels: calls add(pixel range, sums of this range) and adds the parts in order.
template <class F>
void SumOverRows(ffi::ThreadPool& pool, Int rows, Int floats, float* out, const F& add) {
  const Int parts = min<Int>(rows, 256);  // short partial sums keep rounding small
  Aligned sums(parts * floats);
  std::memset(sums.data, 0, parts * floats * 4);
  Parallel(pool, min<Int>(parts, kMaxChunks), [&](Int task) {
    const Int tasks = min<Int>(parts, kMaxChunks);
    for (Int part = parts * task / tasks; part < parts * (task + 1) / tasks; ++part)
      add(rows * part / parts, rows * (part + 1) / parts, sums.data + part * floats);
  });
  for (Int i = 0; i < floats; ++i) {
    double total = 0;
    for (Int part = 0; part < parts; ++part) total += sums.data[part * floats + i];
    out[i] = static_cast<float>(total);
  }
}

// [2, C]: sums of x - shift and of its square, shift being the first pixel.
ffi::Error Moments(ffi::ThreadPool pool, Input x_buffer, Output out_buffer) {
  const Shape s = ShapeOf(x_buffer);
  const float* x = x_buffer.typed_data();
  SumOverRows(pool, s.n * s.h, 2 * s.c, out_buffer->typed_data(), [&](Int a, Int b, float* sum) {
    for (Int r = a; r < b; ++r)
      OverChannels(s.c, [&](Int c, auto full, Int n) {
        const Vec shift = LoadPart(full, x + c, n);
        Vec one{}, two{};
        const float* p = x + r * s.w * s.c + c;
        for (Int i = 0; i < s.w; ++i, p += s.c) {
          const Vec v = LoadPart(full, p, n) - shift;
          one += v;
          two += v * v;
        }
        StorePart(full, sum + c, LoadPart(full, sum + c, n) + one, n);
        StorePart(full, sum + s.c + c, LoadPart(full, sum + s.c + c, n) + two, n);
      });
  });
  return ffi::Error::Success();
}

ffi::Error NormRelu(ffi::ThreadPool pool, Input x_buffer, Input a_buffer, Input b_buffer,
                    bool pool2, Output y_buffer) {
  const Shape s = ShapeOf(x_buffer), y = ShapeOf(y_buffer);
  constexpr Int kBlock = 8;
  const Int blocks = (y.h + kBlock - 1) / kBlock;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks;
    for (Int r = task % blocks * kBlock; r < min(y.h, (task % blocks + 1) * kBlock); ++r)
      NormReluRow(x_buffer.typed_data() + n * s.h * s.w * s.c, s, a_buffer.typed_data(),
                  b_buffer.typed_data(), pool2, r,
                  y_buffer->typed_data() + (n * y.h + r) * y.w * y.c, y.w);
  });
  return ffi::Error::Success();
}

// Carries the gradient of NormRelu's output back to a x + b, for one row of the output and one
// vector of channels: calls f(offset of x, x, gradient) for each pixel.
template <class Full, class F>
inline void OverGradient(Full full, const float* x, const Shape& s, Vec a, Vec b, const float* g,
                         const Shape& y, bool pool2, Int row, Int c, Int valid, const F& f) {
  const float* from = g + row * y.w * y.c + c;
  if (!pool2) {
    Int i = row * s.w * s.c + c;
    for (Int p = 0; p < y.w; ++p, i += s.c, from += y.c) {
      const Vec v = LoadPart(full, x + i, valid), d = LoadPart(full, from, valid);
      f(i, v, v * a + b > 0.0f ? d : Vec{});
    }
    return;
  }
  // The first of equals takes it all; where nothing is positive, nothing does.
  const Int n = row / y.h, r = row % y.h;
  const auto window = [&](Int p, auto rows, auto columns) {
    const Vec d = LoadPart(full, from + p * y.c, valid);
    const Int base = ((n * s.h + 2 * r) * s.w + 2 * p) * s.c + c;
    Vec v[4], z[4], best{};
#pragma GCC unroll 2
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < columns; ++j) {
        v[2 * i + j] = LoadPart(full, x + base + (i * s.w + j) * s.c, valid);
        z[2 * i + j] = v[2 * i + j] * a + b;
        best = z[2 * i + j] > best ? z[2 * i + j] : best;
      }
    Mask open = best > 0.0f;
#pragma GCC unroll 2
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < columns; ++j) {
        const Mask here = open & (z[2 * i + j] == best);
        open &= ~here;
        f(base + (i * s.w + j) * s.c, v[2 * i + j], here ? d : Vec{});
      }
  };
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  const Int pairs = s.w / 2;
  if (2 * r + 1 < s.h) {
    for (Int p = 0; p < pairs; ++p) window(p, Two{}, Two{});
    if (pairs < y.w) window(pairs, Two{}, One{});
  } else {
    for (Int p = 0; p < pairs; ++p) window(p, One{}, Two{});
    if (pairs < y.w) window(pairs, One{}, One{});
  }
}

// [2, C]: sums of the gradient d of a x + b, and of d * (x - mean)
ffi::Error NormReluSums(ffi::ThreadPool pool, Input x_buffer, Input a_buffer, Input b_buffer,
                        Input mean_buffer, Input g_buffer, bool pool2, Output out_buffer) {
  const Shape s = ShapeOf(x_buffer), y = ShapeOf(g_buffer);
  const float *x = x_buffer.typed_data(), *mean = mean_buffer.typed_data();
  const float *a = a_buffer.typed_data(), *b = b_buffer.typed_data();
  SumOverRows(pool, y.n * y.h, 2 * s.c, out_buffer->typed_data(), [&](Int r0, Int r1, float* sum) {
    for (Int r = r0; r < r1; ++r)
      OverChannels(s.c, [&](Int c, auto full, Int valid) {
        const Vec centre = LoadPart(full, mean + c, valid);
        Vec one{}, two{};
        OverGradient(full, x, s, LoadPart(full, a + c, valid), LoadPart(full, b + c, valid),
                     g_buffer.typed_data(), y, pool2, r, c, valid, [&](Int, Vec v, Vec d) {
                       one += d;
                       two += d * (v - centre);
                     });
        StorePart(full, sum + c, LoadPart(full, sum + c, valid) + one, valid);
        StorePart(full, sum + s.c + c, LoadPart(full, sum + s.c + c, valid) + two, valid);
      });
  });
  return ffi::Error::Success();
}

// a * d - k1 * x - k0
ffi::Error NormReluGradient(ffi::ThreadPool pool, Input x_buffer, Input a_buffer, Input b_buffer,
                            Input k0_buffer, Input k1_buffer, Input g_buffer, bool pool2,
                            Output out_buffer) {
  const Shape s = ShapeOf(x_buffer), y = ShapeOf(g_buffer);
  const float *x = x_buffer.typed_data(), *a = a_buffer.typed_data(), *b = b_buffer.typed_data();
  const float *k0 = k0_buffer.typed_data(), *k1 = k1_buffer.typed_data();
  float* out = out_buffer->typed_data();
  const Int rows = y.n * y.h, tasks = (rows + 7) / 8;
  Parallel(pool, tasks, [&](Int task) {
    for (Int r = 8 * task; r < min(rows, 8 * task + 8); ++r)
      OverChannels(s.c, [&](Int c, auto full, Int valid) {
        const Vec va = LoadPart(full, a + c, valid), vb = LoadPart(full, b + c, valid);
        const Vec v0 = LoadPart(full, k0 + c, valid), v1 = LoadPart(full, k1 + c, valid);
        OverGradient(full, x, s, va, vb, g_buffer.typed_data(), y, pool2, r, c, valid,
                     [&](Int i, Vec v, Vec d) {
                       StorePart(full, out + i, va * d - v1 * v - v0, valid);
                     });
      });
  });
  return ffi::Error::Success();
}

auto Binding() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_conv, Conv,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_conv_kernel_gradient, ConvKernelGradient,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_depthwise, Depthwise,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_depthwise_kernel_gradient, DepthwiseKernelGradient,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_conv_norm_relu, ConvNormRelu,
                              Binding().Arg<Input>().Arg<Input>().Arg<Input>().Arg<Input>()
                                  .Attr<Int>("top").Attr<Int>("left").Attr<Int>("height")
                                  .Attr<Int>("width").Attr<bool>("pool").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_moments, Moments, Binding().Arg<Input>().Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_norm_relu, NormRelu,
    Binding().Arg<Input>().Arg<Input>().Arg<Input>().Attr<bool>("pool").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_norm_relu_sums, NormReluSums,
                              Binding().Arg<Input>().Arg<Input>().Arg<Input>().Arg<Input>()
                                  .Arg<Input>().Attr<bool>("pool").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_norm_relu_gradient, NormReluGradient,
                              Binding().Arg<Input>().Arg<Input>().Arg<Input>().Arg<Input>()
                                  .Arg<Input>().Arg<Input>().Attr<bool>("pool").Ret<Input>());
