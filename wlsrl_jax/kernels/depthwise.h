// Part of cpu.cc: depthwise convolution.
#pragma once

#include "base.h"

namespace {

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

void Depthwise(ThreadPool& pool, const Array& x_buffer, const Array& kernel_buffer, Int top,
               Int left, const Array& y_buffer) {
  const Shape s = x_buffer.shape, k = kernel_buffer.shape, y = y_buffer.shape;
  const Int kh = k.n, kw = k.h, columns = y.w + kw - 1, wide = RoundUp(s.c, kLanes);
  const float *x = x_buffer.data, *kernel = kernel_buffer.data;
  float* out = y_buffer.data;
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

void DepthwiseKernelGradient(ThreadPool& pool, const Array& x_buffer, const Array& g_buffer,
                             Int top, Int left, const Array& kernel_buffer) {
  const Shape s = x_buffer.shape, g = g_buffer.shape, k = kernel_buffer.shape;
  const Int kh = k.n, kw = k.h, columns = g.w + kw - 1, wide = RoundUp(s.c, kLanes);
  const float *x = x_buffer.data, *gradient = g_buffer.data;
  float* out = kernel_buffer.data;
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
}

}  // namespace
