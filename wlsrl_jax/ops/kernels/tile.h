// Part of cpu.cc: register tiles, and kernels as they read them.
#pragma once

#include "base.h"

namespace {

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

// sum[m, :] += sum over rows and pixels of x[r * x_row + p * x_step + m] * g[r * g_row + p *
// g_step]
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

// The kernel of a standard convolution, [kh, kw, in, out]; or, transposed, the one that carries
// gradients back: its mirror image with inputs and outputs exchanged, read from the same memory.
struct Kernel {
  const float* data;
  Int kh, kw, in, out;
  bool transposed;

  Kernel(const Array& k, bool transposed) : data(k.data), transposed(transposed) {
    kh = k.shape.n, kw = k.shape.h, in = k.shape.w, out = k.shape.c;
    if (transposed) std::swap(in, out);
  }
  // Output channels [first, first + panel) of one tap and input channel; zeros beyond the last.
  void Panel(Int tap, Int c, Int first, Int panel, float* to) const {
    const Int valid = min(panel, out - first);
    if (transposed) {
      const float* from = data + ((kh * kw - 1 - tap) * out + first) * in + c;
      for (Int o = 0; o < valid; ++o) to[o] = from[o * in];
    } else {
      std::memcpy(to, data + (tap * in + c) * out + first, valid * 4);
    }
    std::memset(to + valid, 0, (panel - valid) * 4);
  }
};

// Output channels are computed in panels of two vectors, or of one where that holds them all.
struct Panels {
  bool two;
  Int size, count;
  explicit Panels(Int channels)
      : two(channels > kLanes),
        size(two ? 2 * kLanes : kLanes),
        count((channels + size - 1) / size) {}
  TileFn tile(Int m) const { return two ? TileOf<2>(m, kTileSizes) : TileOf<1>(m, kTileSizes); }
  GradientTileFn gradient_tile(Int m) const {
    return two ? GradientTileOf<2>(m, kTileSizes) : GradientTileOf<1>(m, kTileSizes);
  }
};

}  // namespace
