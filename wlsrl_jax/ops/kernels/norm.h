// Part of cpu.cc: batch normalisation, ReLU, 2x2 max pooling.
#pragma once

#include "base.h"

namespace {

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
// Sums over pixels: calls add(pixel range, sums of this range) and adds the parts in order.
template <class F>
void SumOverRows(ThreadPool& pool, Int rows, Int floats, float* out, const F& add) {
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
void Moments(ThreadPool& pool, const Array& x_buffer, const Array& out_buffer) {
  const Shape s = x_buffer.shape;
  const float* x = x_buffer.data;
  SumOverRows(pool, s.n * s.h, 2 * s.c, out_buffer.data, [&](Int a, Int b, float* sum) {
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
}

void NormRelu(ThreadPool& pool, const Array& x_buffer, const Array& a_buffer, const Array& b_buffer,
              bool pool2, const Array& y_buffer) {
  const Shape s = x_buffer.shape, y = y_buffer.shape;
  constexpr Int kBlock = 8;
  const Int blocks = (y.h + kBlock - 1) / kBlock;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks;
    for (Int r = task % blocks * kBlock; r < min(y.h, (task % blocks + 1) * kBlock); ++r)
      NormReluRow(x_buffer.data + n * s.h * s.w * s.c, s, a_buffer.data, b_buffer.data, pool2, r,
                  y_buffer.data + (n * y.h + r) * y.w * y.c, y.w);
  });
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
void NormReluSums(ThreadPool& pool, const Array& x_buffer, const Array& a_buffer,
                  const Array& b_buffer, const Array& mean_buffer, const Array& g_buffer,
                  bool pool2, const Array& out_buffer) {
  const Shape s = x_buffer.shape, y = g_buffer.shape;
  const float *x = x_buffer.data, *mean = mean_buffer.data;
  const float *a = a_buffer.data, *b = b_buffer.data;
  SumOverRows(pool, y.n * y.h, 2 * s.c, out_buffer.data, [&](Int r0, Int r1, float* sum) {
    for (Int r = r0; r < r1; ++r)
      OverChannels(s.c, [&](Int c, auto full, Int valid) {
        const Vec centre = LoadPart(full, mean + c, valid);
        Vec one{}, two{};
        OverGradient(full, x, s, LoadPart(full, a + c, valid), LoadPart(full, b + c, valid),
                     g_buffer.data, y, pool2, r, c, valid, [&](Int, Vec v, Vec d) {
                       one += d;
                       two += d * (v - centre);
                     });
        StorePart(full, sum + c, LoadPart(full, sum + c, valid) + one, valid);
        StorePart(full, sum + s.c + c, LoadPart(full, sum + s.c + c, valid) + two, valid);
      });
  });
}

// a * d - k1 * x - k0
void NormReluGradient(ThreadPool& pool, const Array& x_buffer, const Array& a_buffer,
                      const Array& b_buffer, const Array& k0_buffer, const Array& k1_buffer,
                      const Array& g_buffer, bool pool2, const Array& out_buffer) {
  const Shape s = x_buffer.shape, y = g_buffer.shape;
  const float *x = x_buffer.data, *a = a_buffer.data, *b = b_buffer.data;
  const float *k0 = k0_buffer.data, *k1 = k1_buffer.data;
  float* out = out_buffer.data;
  const Int rows = y.n * y.h, tasks = (rows + 7) / 8;
  Parallel(pool, tasks, [&](Int task) {
    for (Int r = 8 * task; r < min(rows, 8 * task + 8); ++r)
      OverChannels(s.c, [&](Int c, auto full, Int valid) {
        const Vec va = LoadPart(full, a + c, valid), vb = LoadPart(full, b + c, valid);
        const Vec v0 = LoadPart(full, k0 + c, valid), v1 = LoadPart(full, k1 + c, valid);
        OverGradient(
            full, x, s, va, vb, g_buffer.data, y, pool2, r, c, valid,
            [&](Int i, Vec v, Vec d) { StorePart(full, out + i, va * d - v1 * v - v0, valid); });
      });
  });
}

}  // namespace
