// Part of cpu.cc: depthwise convolution.
#pragma once

#include "base.h"

namespace {

constexpr Int kMaxLines = 64;
constexpr Int kInPlace = 24;  // pixels

// Rows of a zero-padded image: in place where channels fill the vectors and rows are long, so that
// their ends matter little, else copied. Input j of output p is at row[i] + (p + j) * step; outputs
// outside [begin, end) may not read all of them.
struct Lines {
  const float* row[kMaxLines];
  Int step, begin, end;

  Lines(const float* x, const Shape& s, Int top, Int left, Int first, Int count, Int kw, Int width,
        const float* zeros) {
    step = RoundUp(s.c, kLanes);
    if (step == s.c && width >= kInPlace) {
      for (Int i = 0; i < count; ++i) {
        const Int h = first + i - top;
        row[i] = (h >= 0 && h < s.h ? x + h * s.w * s.c : zeros) - left * s.c;
      }
      begin = min(max<Int>(left, 0), width);
      end = max(begin, min(width, s.w + left - kw + 1));
    } else {
      const Int columns = width + kw - 1;
      float* copy = Scratch(0, count * columns * step);
      CopyPadded(x, s, top, left, first, count, columns, step, copy);
      for (Int i = 0; i < count; ++i) row[i] = copy + i * columns * step;
      begin = 0, end = width;
    }
  }
};

// Calls f(output, tap) for the outputs outside [begin, end) and those columns of the kernel that
// meet the image there.
template <class F>
inline void AtEdges(const Lines& lines, Int width, Int left, Int kw, Int in_width, const F& f) {
  const auto at = [&](Int p) {
    for (Int j = max<Int>(0, left - p); j < min(kw, in_width + left - p); ++j) f(p, j);
  };
  for (Int p = 0; p < lines.begin; ++p) at(p);
  for (Int p = lines.end; p < width; ++p) at(p);
}

// Outputs [begin, end) of one row, kLanes channels from c0 on; KH, KW = 0 means any size.
template <int KH, int KW>
void DepthwiseRow(const float* const* rows, Int c0, Int step, Int kh, Int kw, const float* w,
                  float* out, Int out_step, Int begin, Int end, Int channels) {
  constexpr int kPixels = 4;
  Int p = begin;
  if constexpr (KH > 0) {
    Vec taps[KH][KW];
    for (int i = 0; i < KH; ++i)
      for (int j = 0; j < KW; ++j) taps[i][j] = Load(w + (i * KW + j) * kLanes);
    for (; p + kPixels <= end; p += kPixels) {
      Vec sum[kPixels] = {};
#pragma GCC unroll 3
      for (int i = 0; i < KH; ++i) {
#pragma GCC unroll 8
        for (int c = 0; c < kPixels + KW - 1; ++c) {
          const Vec v = Load(rows[i] + c0 + (p + c) * step);
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
  for (; p < end; ++p) {
    Vec sum{};
    for (Int i = 0; i < kh; ++i)
      for (Int j = 0; j < kw; ++j)
        sum += Load(rows[i] + c0 + (p + j) * step) * Load(w + (i * kw + j) * kLanes);
    float* to = out + p * out_step;
    channels == kLanes ? Store(to, sum) : StoreSome(to, sum, channels);
  }
}

void Depthwise(ThreadPool& pool, const Array& x, const Array& kernel, Int top, Int left,
               const Array& y_array) {
  const Shape s = x.shape, y = y_array.shape;
  const Int kh = kernel.shape.n, kw = kernel.shape.h, wide = RoundUp(s.c, kLanes);
  Aligned packed(kh * kw * wide), zeros(s.w * s.c);  // [slice, tap, lane]
  std::memset(packed.data, 0, kh * kw * wide * 4);
  std::memset(zeros.data, 0, s.w * s.c * 4);
  for (Int t = 0; t < kh * kw; ++t)
    for (Int c = 0; c < s.c; ++c)
      packed.data[(c / kLanes * kh * kw + t) * kLanes + c % kLanes] = kernel.data[t * s.c + c];
  const Int rows_a_block =
      min(RowsOfBlock(y.h, (y.w + kw - 1) * wide * 4, kh - 1), max<Int>(1, kMaxLines - kh + 1));
  const Int blocks = (y.h + rows_a_block - 1) / rows_a_block;
  const auto row_fn = kh == 3 && kw == 3 ? DepthwiseRow<3, 3> : DepthwiseRow<0, 0>;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks, first = task % blocks * rows_a_block;
    const Int rows = min(rows_a_block, y.h - first);
    const Lines lines(x.data + n * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, kw, y.w,
                      zeros.data);
    for (Int r = 0; r < rows; ++r) {
      float* out = y_array.data + (n * y.h + first + r) * y.w * y.c;
      // A few pixels at a time, all channels: no line of the cache is fetched twice.
      const Int pixels = PixelsAtATime(wide);
      for (Int begin = lines.begin; begin < lines.end; begin += pixels)
        for (Int c = 0; c < s.c; c += kLanes)
          row_fn(lines.row + r, c, wide, kh, kw, packed.data + c * kh * kw, out + c, y.c, begin,
                 min(begin + pixels, lines.end), min<Int>(kLanes, s.c - c));
      std::memset(out, 0, lines.begin * y.c * 4);
      std::memset(out + lines.end * y.c, 0, (y.w - lines.end) * y.c * 4);
      AtEdges(lines, y.w, left, kw, s.w, [&](Int p, Int j) {
        for (Int c = 0; c < s.c; c += kLanes) {
          Vec sum = Load(out + p * y.c + c);
          for (Int i = 0; i < kh; ++i)
            sum += Load(lines.row[r + i] + (p + j) * wide + c) *
                   Load(packed.data + (c * kh + i * kLanes) * kw + j * kLanes);
          Store(out + p * y.c + c, sum);
        }
      });
    }
  });
}

// total[tap, :] += sum over rows and outputs [begin, end) of x * g, kLanes channels
template <int KH, int KW>
void DepthwiseGradientTile(const float* const* rows, Int step, const float* g, Int g_step,
                           Int width, Int kh, Int kw, Int count, Int begin, Int end, float* total) {
  if constexpr (KH > 0) {
    Vec sum[KH][KW] = {};
    for (Int r = 0; r < count; ++r)
      for (Int p = begin; p < end; ++p) {
        const Vec b = Load(g + (r * width + p) * g_step);
#pragma GCC unroll 3
        for (int i = 0; i < KH; ++i)
#pragma GCC unroll 3
          for (int j = 0; j < KW; ++j) sum[i][j] += Load(rows[r + i] + (p + j) * step) * b;
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
        for (Int r = 0; r < count; ++r)
          for (Int p = begin; p < end; ++p)
            sum += Load(rows[r + i] + (p + j) * step) * Load(g + (r * width + p) * g_step);
        float* to = total + (i * kw + j) * kLanes;
        Store(to, Load(to) + sum);
      }
  }
}

void DepthwiseKernelGradient(ThreadPool& pool, const Array& x, const Array& g_array, Int top,
                             Int left, const Array& kernel) {
  const Shape s = x.shape, g = g_array.shape;
  const Int kh = kernel.shape.n, kw = kernel.shape.h, wide = RoundUp(s.c, kLanes);
  const Int chunks = min(g.n, kMaxChunks), size = kh * kw * wide;
  Aligned sums(chunks * size), zeros(s.w * s.c);  // [chunk, slice, tap, lane]
  std::memset(zeros.data, 0, s.w * s.c * 4);
  const Int rows_a_block =
      min(RowsOfBlock(g.h, 2 * (g.w + kw - 1) * wide * 4, kh - 1), max<Int>(1, kMaxLines - kh + 1));
  const auto tile = kh == 3 && kw == 3 ? DepthwiseGradientTile<3, 3> : DepthwiseGradientTile<0, 0>;
  Parallel(pool, chunks, [&](Int chunk) {
    float* sum = sums.data + chunk * size;
    std::memset(sum, 0, size * 4);
    for (Int n = g.n * chunk / chunks; n < g.n * (chunk + 1) / chunks; ++n)
      for (Int first = 0; first < g.h; first += rows_a_block) {
        const Int rows = min(rows_a_block, g.h - first);
        const Lines lines(x.data + n * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, kw, g.w,
                          zeros.data);
        const float* part_g = g_array.data + (n * g.h + first) * g.w * g.c;
        if (wide != g.c) {
          float* padded = Scratch(1, rows * g.w * wide);
          const Shape one{1, rows, g.w, g.c};
          CopyPadded(part_g, one, 0, 0, 0, rows, g.w, wide, padded);
          part_g = padded;
        }
        for (Int c = 0; c < wide; c += kLanes) {
          const float* slices[kMaxLines];
          for (Int i = 0; i < rows + kh - 1; ++i) slices[i] = lines.row[i] + c;
          float* total = sum + c * kh * kw;
          tile(slices, wide, part_g + c, wide, g.w, kh, kw, rows, lines.begin, lines.end, total);
          AtEdges(lines, g.w, left, kw, s.w, [&](Int p, Int j) {
            for (Int i = 0; i < kh; ++i) {
              float* to = total + (i * kw + j) * kLanes;
              Vec part = Load(to);
              for (Int r = 0; r < rows; ++r)
                part +=
                    Load(slices[r + i] + (p + j) * wide) * Load(part_g + (r * g.w + p) * wide + c);
              Store(to, part);
            }
          });
        }
      }
  });
  for (Int t = 0; t < kh * kw; ++t)
    for (Int c = 0; c < s.c; ++c) {
      float total = 0;
      for (Int chunk = 0; chunk < chunks; ++chunk)
        total += sums.data[chunk * size + (c / kLanes * kh * kw + t) * kLanes + c % kLanes];
      kernel.data[t * s.c + c] = total;
    }
}

}  // namespace
