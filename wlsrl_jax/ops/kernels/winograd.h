// Part of cpu.cc: 3x3 convolutions by Winograd's method, F(2x2, 3x3) of Lavin and Gray (2016).
//
// Tiles of 4x4 inputs and the kernel are transformed to 16 points, where the convolution is 16
// matrix products over the channels, with 4/9 of the multiplications; 2x2 outputs are transformed
// back. The gradient of the kernel is the adjoint of that. All transforms are sums and halves.
#pragma once

#include "norm.h"
#include "tile.h"

namespace {

constexpr Int kPoints = 16;
constexpr Int kTileBytes = 256 * 1024;    // of what one task works on: in the second-level cache
constexpr Int kBlockBytes = 2048 * 1024;  // of what all tasks work on together

bool UseWinograd(Int kh, Int kw, Int in, Int out) {
  return kh == 3 && kw == 3 && min(in, out) >= 16;
}

// The 2x2 tiles that cover an output, of all images in one row.
struct Tiling {
  Int rows, columns, count;
  explicit Tiling(const Shape& y)
      : rows((y.h + 1) / 2), columns((y.w + 1) / 2), count(y.n * rows * columns) {}
  struct Place {
    Int n, h, w;  // image, first row and column of the output
  };
  Place place(Int t) const {
    const Int r = t / columns;
    return {r / rows, r % rows * 2, t % columns * 2};
  }
};

// [4, 4] points of 4x4 pixels, `plane` floats from one point to the next.
template <class Pixel>
inline void TransformPixels(const Pixel& pixel, Int channels, float* out, Int plane) {
  OverChannels(channels, [&](Int c, auto full, Int valid) {
    const auto row = [&](Int i, Int first, Int second, auto combine) {
      Vec r[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        r[j] = combine(LoadPart(full, pixel(first, j) + c, valid),
                       LoadPart(full, pixel(second, j) + c, valid));
      float* to = out + 4 * i * plane + c;
      StorePart(full, to, r[0] - r[2], valid);
      StorePart(full, to + plane, r[1] + r[2], valid);
      StorePart(full, to + 2 * plane, r[2] - r[1], valid);
      StorePart(full, to + 3 * plane, r[1] - r[3], valid);
    };
    const auto minus = [](Vec a, Vec b) { return a - b; };
    row(0, 0, 2, minus);
    row(1, 1, 2, [](Vec a, Vec b) { return a + b; });
    row(2, 2, 1, minus);
    row(3, 1, 3, minus);
  });
}

void TransformInput(const float* x, const Shape& s, const Tiling::Place& at, Int top, Int left,
                    const float* zeros, float* out, Int plane) {
  const Int h = at.h - top, w = at.w - left, row = s.w * s.c;
  const float* corner = x + at.n * s.h * row + h * row + w * s.c;
  if (h >= 0 && w >= 0 && h + 4 <= s.h && w + 4 <= s.w) {
    TransformPixels([&](Int i, Int j) { return corner + i * row + j * s.c; }, s.c, out, plane);
    return;
  }
  const float* pixels[4][4];
  for (Int i = 0; i < 4; ++i)
    for (Int j = 0; j < 4; ++j) {
      const bool inside = h + i >= 0 && h + i < s.h && w + j >= 0 && w + j < s.w;
      pixels[i][j] = inside ? corner + i * row + j * s.c : zeros;
    }
  TransformPixels([&](Int i, Int j) { return pixels[i][j]; }, s.c, out, plane);
}

// The transformed kernel: [panel, point, in, panel size].
Aligned TransformKernel(ThreadPool& pool, const Kernel& kernel, const Panels& panels) {
  const Int plane = kernel.in * panels.size;
  Aligned out(panels.count * kPoints * plane);
  constexpr Int kPieces = 4;
  Parallel(pool, panels.count * kPieces, [&](Int task) {
    const Int q = task / kPieces, piece = task % kPieces;
    float taps[9][2 * kLanes];
    for (Int c = kernel.in * piece / kPieces; c < kernel.in * (piece + 1) / kPieces; ++c) {
      for (Int tap = 0; tap < 9; ++tap)
        kernel.Panel(tap, c, q * panels.size, panels.size, taps[tap]);
      float* to = out.data + q * kPoints * plane + c * panels.size;
      for (Int v = 0; v < panels.size; v += kLanes) {
        Vec r[4][3];
        for (int j = 0; j < 3; ++j) {
          const Vec k0 = Load(taps[j] + v), k1 = Load(taps[3 + j] + v), k2 = Load(taps[6 + j] + v);
          r[0][j] = k0, r[3][j] = k2;
          r[1][j] = 0.5f * (k0 + k2 + k1), r[2][j] = 0.5f * (k0 + k2 - k1);
        }
        for (int i = 0; i < 4; ++i) {
          const Vec even = r[i][0] + r[i][2];
          Store(to + (4 * i) * plane + v, r[i][0]);
          Store(to + (4 * i + 1) * plane + v, 0.5f * (even + r[i][1]));
          Store(to + (4 * i + 2) * plane + v, 0.5f * (even - r[i][1]));
          Store(to + (4 * i + 3) * plane + v, r[i][2]);
        }
      }
    }
  });
  return out;
}

// 2x2 outputs from 4x4 points.
inline void TransformPoints(const float* m, Int plane, Vec (&y)[2][2]) {
  Vec even[4], odd[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vec m1 = Load(m + (4 + j) * plane), m2 = Load(m + (8 + j) * plane);
    even[j] = Load(m + j * plane) + (m1 + m2);
    odd[j] = (m1 - m2) - Load(m + (12 + j) * plane);
  }
  y[0][0] = even[0] + (even[1] + even[2]), y[0][1] = (even[1] - even[2]) - even[3];
  y[1][0] = odd[0] + (odd[1] + odd[2]), y[1][1] = (odd[1] - odd[2]) - odd[3];
}

// As ConvThen.
void WinogradThen(ThreadPool& pool, const float* x, const Shape& s, const Kernel& kernel,
                  const float* a, const float* b, bool pool2, Int top, Int left, const Shape& y,
                  float* out) {
  const Panels panels(y.c);
  const Tiling tiling(y);
  const Aligned transformed = TransformKernel(pool, kernel, panels);
  const Aligned zeros(s.c);
  std::memset(zeros.data, 0, s.c * 4);
  // Long enough to use the kernel often, short enough to stay in the cache and feed all threads.
  const Int longest = max<Int>(4 * kRows, kTileBytes / (kPoints * s.c * 4));
  const Int share = (tiling.count + 2 * pool.num_threads() - 1) / (2 * pool.num_threads());
  const Int length = RoundUp(min(longest, share), kRows);
  const Int out_h = pool2 ? tiling.rows : y.h, out_w = pool2 ? tiling.columns : y.w;
  Parallel(pool, (tiling.count + length - 1) / length, [&](Int task) {
    const Int first = task * length, count = min(length, tiling.count - first);
    const Int plane = count * s.c, m_plane = count * panels.size;
    float* inputs = Scratch(0, kPoints * plane);      // [point, tile, in]
    float* products = Scratch(1, kPoints * m_plane);  // [point, tile, panel]
    for (Int t = 0; t < count; ++t)
      TransformInput(x, s, tiling.place(first + t), top, left, zeros.data, inputs + t * s.c, plane);
    const Int parts = (count + kRows - 1) / kRows;
    for (Int q = 0; q < panels.count; ++q) {
      for (Int point = 0; point < kPoints; ++point)
        for (Int part = 0; part < parts; ++part) {
          const Int t = count * part / parts, m = count * (part + 1) / parts - t;
          panels.tile(m)(inputs + point * plane + t * s.c, s.c, 0, 1, s.c,
                         transformed.data + (q * kPoints + point) * s.c * panels.size,
                         products + point * m_plane + t * panels.size, panels.size, panels.size);
        }
      for (Int t = 0; t < count; ++t) {
        const auto at = tiling.place(first + t);
        const bool lower = at.h + 1 < y.h, right = at.w + 1 < y.w;
        OverChannels(min(panels.size, y.c - q * panels.size), [&](Int v, auto full, Int valid) {
          const Int c = q * panels.size + v;
          Vec r[2][2];
          TransformPoints(products + t * panels.size + v, m_plane, r);
          if (a) {
            const Vec va = LoadPart(full, a + c, valid), vb = LoadPart(full, b + c, valid);
            for (auto& line : r)
              for (Vec& value : line) value = Positive(value * va + vb);
          }
          if (pool2) {
            Vec best = r[0][0];
            const auto join = [&](bool exists, Vec value) {
              if (exists) best = value > best ? value : best;
            };
            join(right, r[0][1]), join(lower, r[1][0]), join(lower && right, r[1][1]);
            StorePart(full, out + ((at.n * out_h + at.h / 2) * out_w + at.w / 2) * y.c + c, best,
                      valid);
            return;
          }
          float* to = out + ((at.n * y.h + at.h) * y.w + at.w) * y.c + c;
          StorePart(full, to, r[0][0], valid);
          if (right) StorePart(full, to + y.c, r[0][1], valid);
          if (lower) StorePart(full, to + y.w * y.c, r[1][0], valid);
          if (lower && right) StorePart(full, to + (y.w + 1) * y.c, r[1][1], valid);
        });
      }
    }
  });
}

// [4, 4] points of the gradient of 2x2 outputs, for each panel: [point, panel, tile, panel size].
void TransformGradient(const float* g, const Shape& s, const Tiling::Place& at, const float* zeros,
                       const Panels& panels, Int stride, float* out) {
  const bool lower = at.h + 1 < s.h, right = at.w + 1 < s.w;
  const float* corner = g + ((at.n * s.h + at.h) * s.w + at.w) * s.c;
  const float* pixels[2][2] = {
      {corner, right ? corner + s.c : zeros},
      {lower ? corner + s.w * s.c : zeros, lower && right ? corner + (s.w + 1) * s.c : zeros}};
  OverChannels(s.c, [&](Int c, auto full, Int valid) {
    Vec r[4][2];
    for (int j = 0; j < 2; ++j) {
      const Vec up = LoadPart(full, pixels[0][j] + c, valid);
      const Vec down = LoadPart(full, pixels[1][j] + c, valid);
      r[0][j] = up, r[1][j] = up + down, r[2][j] = up - down, r[3][j] = -down;
    }
    float* to = out + c / panels.size * stride + c % panels.size;
    const Int plane = panels.count * stride;
    for (int i = 0; i < 4; ++i) {
      Store(to + (4 * i) * plane, r[i][0]);
      Store(to + (4 * i + 1) * plane, r[i][0] + r[i][1]);
      Store(to + (4 * i + 2) * plane, r[i][0] - r[i][1]);
      Store(to + (4 * i + 3) * plane, -r[i][1]);
    }
  });
  if (s.c % panels.size && s.c % panels.size <= panels.size - kLanes)  // the last vector is empty
    for (Int point = 0; point < kPoints; ++point)
      Store(out + ((point + 1) * panels.count - 1) * stride + panels.size - kLanes, Vec{});
}

void WinogradKernelGradient(ThreadPool& pool, const float* x, const Shape& s, const float* g,
                            const Shape& y, Int top, Int left, float* out) {
  const Panels panels(y.c);
  const Tiling tiling(y);
  const Aligned zeros(max(s.c, y.c));
  std::memset(zeros.data, 0, max(s.c, y.c) * 4);
  const Int sum = s.c * panels.size, points_sum = kPoints * panels.count * sum;
  const Int parts = (s.c + kRows - 1) / kRows,
            tile_floats = kPoints * (s.c + panels.count * panels.size);

  // Tiles [first, first + count) transformed to [point, tile, in] and [point, panel, tile, panel].
  const auto transform = [&](Int first, Int begin, Int end, Int length, float* inputs,
                             float* grads) {
    for (Int t = begin; t < end; ++t) {
      const auto at = tiling.place(first + t);
      TransformInput(x, s, at, top, left, zeros.data, inputs + t * s.c, length * s.c);
      TransformGradient(g, y, at, zeros.data, panels, length * panels.size,
                        grads + t * panels.size);
    }
  };
  // Adds their product at one point and panel to [in, panel size].
  const auto multiply = [&](Int task, Int count, Int length, const float* inputs,
                            const float* grads, float* total) {
    for (Int part = 0; part < parts; ++part) {
      const Int c = s.c * part / parts, m = s.c * (part + 1) / parts - c;
      panels.gradient_tile(m)(inputs + task / panels.count * length * s.c + c, 0, s.c,
                              grads + task * length * panels.size, 0, panels.size, 1, count,
                              total + c * panels.size);
    }
  };

  const Int most_chunks = min<Int>(kMaxChunks, kMaxSums / points_sum);
  const Int chunks = max<Int>(1, min(most_chunks, tiling.count / 64));
  const Aligned sums(chunks * points_sum);  // [chunk, point, panel, in, panel size]
  if (most_chunks == kMaxChunks) {          // small sums: each part of the tiles has its own
    const Int length = max<Int>(32, kTileBytes / 4 / tile_floats);
    Parallel(pool, chunks, [&](Int chunk) {
      float* total = sums.data + chunk * points_sum;
      std::memset(total, 0, points_sum * 4);
      float* inputs = Scratch(0, kPoints * length * s.c);
      float* grads = Scratch(1, kPoints * length * panels.count * panels.size);
      const Int end = tiling.count * (chunk + 1) / chunks;
      for (Int first = tiling.count * chunk / chunks; first < end; first += length) {
        const Int count = min(length, end - first);
        transform(first, 0, count, length, inputs, grads);
        for (Int task = 0; task < kPoints * panels.count; ++task)
          multiply(task, count, length, inputs, grads, total + task * sum);
      }
    });
    Parallel(pool, kPoints * panels.count, [&](Int task) {
      float* total = sums.data + task * sum;
      for (Int chunk = 1; chunk < chunks; ++chunk)
        for (Int i = 0; i < sum; ++i) total[i] += total[chunk * points_sum + i];
    });
  } else {  // large ones exist once: all threads transform a block of tiles, then multiply it
    const Int length = min(tiling.count, max<Int>(64, kBlockBytes / 4 / tile_floats));
    const Aligned inputs(kPoints * length * s.c);
    const Aligned grads(kPoints * length * panels.count * panels.size);
    constexpr Int kPiece = 16;
    for (Int first = 0; first < tiling.count; first += length) {
      const Int count = min(length, tiling.count - first);
      Parallel(pool, (count + kPiece - 1) / kPiece, [&](Int piece) {
        transform(first, piece * kPiece, min(count, (piece + 1) * kPiece), length, inputs.data,
                  grads.data);
      });
      Parallel(pool, kPoints * panels.count, [&](Int task) {
        float* total = sums.data + task * sum;
        if (first == 0) std::memset(total, 0, sum * 4);
        multiply(task, count, length, inputs.data, grads.data, total);
      });
    }
  }
  Parallel(pool, s.c, [&](Int c) {
    for (Int q = 0; q < panels.count; ++q)
      OverChannels(min(panels.size, y.c - q * panels.size), [&](Int v, auto full, Int valid) {
        const float* u = sums.data + q * sum + c * panels.size + v;
        const Int step = panels.count * sum;
        const auto at = [&](int i, int j) { return Load(u + (4 * i + j) * step); };
        Vec r[3][4];
        for (int j = 0; j < 4; ++j) {
          const Vec even = 0.5f * (at(1, j) + at(2, j));
          r[0][j] = at(0, j) + even;
          r[1][j] = 0.5f * (at(1, j) - at(2, j));
          r[2][j] = even + at(3, j);
        }
        for (int i = 0; i < 3; ++i) {
          float* to = out + (3 * i * s.c + c) * y.c + q * panels.size + v;
          const Vec even = 0.5f * (r[i][1] + r[i][2]);
          StorePart(full, to, r[i][0] + even, valid);
          StorePart(full, to + s.c * y.c, 0.5f * (r[i][1] - r[i][2]), valid);
          StorePart(full, to + 2 * s.c * y.c, even + r[i][3], valid);
        }
      });
  });
}

}  // namespace
