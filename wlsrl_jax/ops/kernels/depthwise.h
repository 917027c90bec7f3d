// Part of cpu.cc: depthwise convolution.
#pragma once

#include "base.h"

namespace {

constexpr Int kMaxLines = 64;               // image rows of a block
constexpr Int kGradientFloats = 32 * 1024;  // of a block; twice that stays in the cache
constexpr int kGroup = 4;                   // pixels worked on at a time
using No = std::integral_constant<int, 0>;
using Yes = std::integral_constant<int, 1>;

// `count` rows of a zero-padded image from row `first` on, channels filled up to `channels`. They
// are read in place where no column and no channel is added.
struct Lines {
  const float* row[kMaxLines];

  Lines(const float* x, const Shape& s, Int top, Int left, Int first, Int count, Int columns,
        Int channels, const float* zeros) {
    const bool in_place = columns == s.w && left == 0 && channels == s.c;
    float* copy = in_place ? nullptr : Scratch(0, count * columns * channels);
    if (copy) CopyPadded(x, s, top, left, first, count, columns, channels, copy);
    for (Int i = 0; i < count; ++i) {
      const Int h = first + i - top;
      row[i] = copy ? copy + i * columns * channels : h >= 0 && h < s.h ? x + h * s.w * s.c : zeros;
    }
  }
};

// Whether a 3x3 kernel has one column of zeros at each side, as SAME gives it.
bool Is3x3Same(Int kh, Int kw, Int left, Int in_width, Int out_width) {
  return kh == 3 && kw == 3 && left == 1 && in_width == out_width && out_width >= kGroup;
}

// kRowsOut x kGroup outputs of a 3x3 kernel from pixel p on, all channels, so that memory is read
// in order. They read kRowsOut + 2 rows; a pixel has `step` floats; kLeft and kRight leave out the
// column beyond the edge. `taps` are [slice of channels, tap, lane].
template <int kRowsOut, bool kLeft, bool kRight>
inline void Depthwise3x3Group(const float* const* rows, Int step, Int p, const float* taps,
                              float* const* out) {
  const float* at[kRowsOut + 2];
  for (int i = 0; i < kRowsOut + 2; ++i) at[i] = rows[i] + (p - 1) * step;
  for (Int c = 0; c < step; c += kLanes, taps += 9 * kLanes) {
    Vec sum[kRowsOut][kGroup] = {};
#pragma GCC unroll 4
    for (int i = 0; i < kRowsOut + 2; ++i)
#pragma GCC unroll 8
      for (int j = kLeft; j < kGroup + 2 - kRight; ++j) {
        Vec v = Load(at[i] + j * step + c);
        InRegister(v);
#pragma GCC unroll 2
        for (int r = 0; r < kRowsOut; ++r)
#pragma GCC unroll 4
          for (int m = 0; m < kGroup; ++m)
            if (i - r >= 0 && i - r < 3 && j - m >= 0 && j - m < 3)
              sum[r][m] += v * Load(taps + (3 * (i - r) + j - m) * kLanes);
      }
#pragma GCC unroll 2
    for (int r = 0; r < kRowsOut; ++r)
#pragma GCC unroll 4
      for (int m = 0; m < kGroup; ++m) Store(out[r] + (p + m) * step + c, sum[r][m]);
  }
}

template <int kRowsOut>
void Depthwise3x3Rows(const float* const* rows, Int step, Int width, const float* taps,
                      float* const* out) {
  const auto group = [&](Int p, auto left, auto right) {
    Depthwise3x3Group<kRowsOut, left, right>(rows, step, p, taps, out);
  };
  if (width == kGroup) return group(0, Yes{}, Yes{});
  group(0, Yes{}, No{});
  for (Int p = kGroup; p + kGroup < width; p += kGroup) group(p, No{}, No{});
  group(width - kGroup, No{}, Yes{});  // may overlap the group before: the same values
}

// One row of outputs of a kernel of any size, from rows that are padded on both sides.
void DepthwiseRow(const float* const* rows, Int step, Int width, Int kh, Int kw, const float* taps,
                  float* out) {
  for (Int c = 0; c < step; c += kLanes, taps += kh * kw * kLanes)
    for (Int p = 0; p < width; ++p) {
      Vec sum{};
      for (Int i = 0; i < kh; ++i)
        for (Int j = 0; j < kw; ++j)
          sum += Load(rows[i] + (p + j) * step + c) * Load(taps + (i * kw + j) * kLanes);
      Store(out + p * step + c, sum);
    }
}

void Depthwise(ThreadPool& pool, const Array& x, const Array& kernel, Int top, Int left,
               const Array& y_array) {
  const Shape s = x.shape, y = y_array.shape;
  const Int kh = kernel.shape.n, kw = kernel.shape.h, wide = RoundUp(s.c, kLanes);
  Aligned taps(kh * kw * wide), zeros(s.w * s.c);  // [slice, tap, lane]
  std::memset(taps.data, 0, kh * kw * wide * 4);
  std::memset(zeros.data, 0, s.w * s.c * 4);
  for (Int t = 0; t < kh * kw; ++t)
    for (Int c = 0; c < s.c; ++c)
      taps.data[(c / kLanes * kh * kw + t) * kLanes + c % kLanes] = kernel.data[t * s.c + c];
  const bool same = Is3x3Same(kh, kw, left, s.w, y.w);
  const Int columns = same ? s.w : y.w + kw - 1;
  const Int rows_a_block =
      min(RowsOfBlock(y.h, columns * wide * 4, kh - 1), max<Int>(1, kMaxLines - kh + 1));
  const Int blocks = (y.h + rows_a_block - 1) / rows_a_block, size = y.w * wide;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks, first = task % blocks * rows_a_block;
    const Int rows = min(rows_a_block, y.h - first);
    const Lines lines(x.data + n * s.h * s.w * s.c, s, top, same ? 0 : left, first, rows + kh - 1,
                      columns, wide, zeros.data);
    float* to = y_array.data + (n * y.h + first) * y.w * y.c;
    float* made = wide == s.c ? to : Scratch(1, rows * size);
    for (Int r = 0; r < rows; r += 2) {
      float* const out[] = {made + r * size, made + (r + 1) * size};
      const bool two = r + 1 < rows;
      if (same) {
        two ? Depthwise3x3Rows<2>(lines.row + r, wide, y.w, taps.data, out)
            : Depthwise3x3Rows<1>(lines.row + r, wide, y.w, taps.data, out);
      } else {
        for (Int k = 0; k <= two; ++k)
          DepthwiseRow(lines.row + r + k, wide, y.w, kh, kw, taps.data, out[k]);
      }
    }
    if (made != to)
      for (Int p = 0; p < rows * y.w; ++p) std::memcpy(to + p * s.c, made + p * wide, s.c * 4);
  });
}

// total[tap, :] += sum over `count` rows of x * g for a 3x3 kernel, kLanes channels. rows[i] and
// row r of g have `step` floats a pixel.
void Depthwise3x3GradientTile(const float* const* rows, const float* g, Int step, Int width,
                              Int count, float* total) {
  Vec sum[3][3];
  for (int t = 0; t < 9; ++t) sum[t / 3][t % 3] = Load(total + t * kLanes);
  const auto group = [&](Int r, Int p, auto pixels, auto left, auto right) {
    constexpr int kPixels = decltype(pixels)::value;
    Vec b[kPixels];
#pragma GCC unroll 4
    for (int m = 0; m < kPixels; ++m) {
      b[m] = Load(g + (r * width + p + m) * step);
      InRegister(b[m]);
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
#pragma GCC unroll 8
      for (int j = left; j < kPixels + 2 - right; ++j) {
        Vec v = Load(rows[r + i] + (p - 1 + j) * step);
        InRegister(v);
#pragma GCC unroll 4
        for (int m = 0; m < kPixels; ++m)
          if (j - m >= 0 && j - m < 3) sum[i][j - m] += v * b[m];
      }
  };
  using Many = std::integral_constant<int, kGroup>;
  for (Int r = 0; r < count; ++r) {
    group(r, 0, Yes{}, Yes{}, No{});
    Int p = 1;
    for (; p + kGroup < width; p += kGroup) group(r, p, Many{}, No{}, No{});
    for (; p + 1 < width; ++p) group(r, p, Yes{}, No{}, No{});
    group(r, p, Yes{}, No{}, Yes{});
  }
  for (int t = 0; t < 9; ++t) Store(total + t * kLanes, sum[t / 3][t % 3]);
}

// The same for a kernel of any size, from rows that are padded on both sides.
void DepthwiseGradientTile(const float* const* rows, const float* g, Int step, Int width, Int count,
                           Int kh, Int kw, float* total) {
  for (Int i = 0; i < kh; ++i)
    for (Int j = 0; j < kw; ++j) {
      Vec sum{};
      for (Int r = 0; r < count; ++r)
        for (Int p = 0; p < width; ++p)
          sum += Load(rows[r + i] + (p + j) * step) * Load(g + (r * width + p) * step);
      float* to = total + (i * kw + j) * kLanes;
      Store(to, Load(to) + sum);
    }
}

void DepthwiseKernelGradient(ThreadPool& pool, const Array& x, const Array& g_array, Int top,
                             Int left, const Array& kernel) {
  const Shape s = x.shape, g = g_array.shape;
  const Int kh = kernel.shape.n, kw = kernel.shape.h, wide = RoundUp(s.c, kLanes);
  const Int chunks = min(g.n, kMaxChunks), size = kh * kw * wide;
  Aligned sums(chunks * size), zeros(s.w * s.c);  // [chunk, slice, tap, lane]
  std::memset(zeros.data, 0, s.w * s.c * 4);
  const bool same = Is3x3Same(kh, kw, left, s.w, g.w);
  const Int columns = same ? s.w : g.w + kw - 1;
  const Int rows_a_block = max<Int>(1, min(kGradientFloats / (columns * wide), kMaxLines - kh + 1));
  Parallel(pool, chunks, [&](Int chunk) {
    float* sum = sums.data + chunk * size;
    std::memset(sum, 0, size * 4);
    for (Int n = g.n * chunk / chunks; n < g.n * (chunk + 1) / chunks; ++n)
      for (Int first = 0; first < g.h; first += rows_a_block) {
        const Int count = min(rows_a_block, g.h - first);
        Lines lines(x.data + n * s.h * s.w * s.c, s, top, same ? 0 : left, first, count + kh - 1,
                    columns, wide, zeros.data);
        const float* part_g = g_array.data + (n * g.h + first) * g.w * g.c;
        if (wide != g.c) {
          float* padded = Scratch(1, count * g.w * wide);
          CopyPadded(part_g, {1, count, g.w, g.c}, 0, 0, 0, count, g.w, wide, padded);
          part_g = padded;
        }
        for (Int c = 0; c < wide; c += kLanes) {
          float* total = sum + c * kh * kw;
          same ? Depthwise3x3GradientTile(lines.row, part_g + c, wide, g.w, count, total)
               : DepthwiseGradientTile(lines.row, part_g + c, wide, g.w, count, kh, kw, total);
          for (Int i = 0; i < count + kh - 1; ++i) lines.row[i] += kLanes;
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
